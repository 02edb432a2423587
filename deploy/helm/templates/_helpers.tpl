{{- define "psystrike.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "psystrike.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "psystrike.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Options as variables. Numbers come as floating point, which would be written 1e+06. */ -}}
{{- define "psystrike.variables" -}}
{{- range $name, $value := .Values.options }}
{{- if kindIs "slice" $value }}{{ $value = join "," $value }}{{ end }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{- if regexMatch "^([0-9]+(ms|s|m|h))+$" (toString $value) }}
{{- $milliseconds := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" $value -1 }}
{{- $factor := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+" .) }}
{{- $milliseconds = add $milliseconds (mul (regexFind "[0-9]+" . | atoi) $factor) }}
{{- end }}
{{- if gt $milliseconds 604800000 }}{{ fail (printf "options.%s: %s is more than 168h" $name $value) }}{{ end }}
{{- end }}
PSYSTRIKE_{{ $name | replace "-" "_" | upper }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}
