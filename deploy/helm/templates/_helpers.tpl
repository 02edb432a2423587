{{- define "psystrike.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "psystrike.fullname" -}}
{{- $name := include "psystrike.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "psystrike.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "psystrike.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- /* The labels of all pods of the release, the test's included. */ -}}
{{- define "psystrike.release" -}}
app.kubernetes.io/name: {{ include "psystrike.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels of the pods that serve. */ -}}
{{- define "psystrike.selector" -}}
{{ include "psystrike.release" . }}
app.kubernetes.io/component: proxy
{{- end }}

{{- /* The labels of all objects. Values can change them, but not those of the selector. */ -}}
{{- define "psystrike.labels" -}}
{{- $labels := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/part-of" "monitoring" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- mergeOverwrite $labels .Values.commonLabels (include "psystrike.selector" . | fromYaml) | toYaml }}
{{- end }}

{{- define "psystrike.podLabels" -}}
{{- $labels := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/part-of" "monitoring" }}
{{- mergeOverwrite $labels .Values.commonLabels .Values.podLabels (include "psystrike.selector" . | fromYaml) | toYaml }}
{{- end }}

{{- define "psystrike.metadata" -}}
name: {{ include "psystrike.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "psystrike.labels" . | nindent 2 }}
{{- end }}

{{- define "psystrike.image" -}}
{{- with .Values.image.digest }}
{{- printf "%s@%s" $.Values.image.repository . }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* Not empty if only listed clients may connect. */ -}}
{{- define "psystrike.closed" -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.from }}true{{ end }}
{{- end }}

{{- define "psystrike.externalTrafficPolicy" -}}
{{- .Values.service.externalTrafficPolicy | default (ternary "Local" "Cluster" (ne (include "psystrike.closed" .) "")) }}
{{- end }}

{{- /* Options as variables. Numbers are floating point here and would be printed as 1e+06. */ -}}
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
{{- if .Values.auth.tokenSecret }}
PSYSTRIKE_AUTH_TOKEN_FILE: {{ printf "/etc/psystrike/%s" .Values.auth.tokenKey | quote }}
{{- end }}
{{- with .Values.tls }}
{{- if .secretName }}
PSYSTRIKE_TLS_CERT: /etc/psystrike-tls/tls.crt
PSYSTRIKE_TLS_KEY: /etc/psystrike-tls/tls.key
{{- end }}
{{- if .clientCASecretName }}
PSYSTRIKE_TLS_CLIENT_CA: {{ printf "/etc/psystrike-client-ca/%s" .clientCAKey | quote }}
{{- end }}
{{- end }}
{{- with .Values.podTLS }}
{{- if .ca }}
PSYSTRIKE_POD_TLS_CA: {{ printf "/etc/psystrike-pod-ca/%s" .caKey | quote }}
{{- end }}
{{- if .secretName }}
PSYSTRIKE_POD_TLS_CERT: /etc/psystrike-pod-tls/tls.crt
PSYSTRIKE_POD_TLS_KEY: /etc/psystrike-pod-tls/tls.key
{{- end }}
{{- end }}
{{- end }}

{{- /* The volumes with files of options, by their names: each with its source and its folder. */ -}}
{{- define "psystrike.volumes" -}}
{{- with .Values.auth.tokenSecret }}
token: { path: /etc/psystrike, source: { secret: { secretName: {{ . }} } } }
{{- end }}
{{- with .Values.tls.secretName }}
tls: { path: /etc/psystrike-tls, source: { secret: { secretName: {{ . }} } } }
{{- end }}
{{- with .Values.tls.clientCASecretName }}
client-ca: { path: /etc/psystrike-client-ca, source: { secret: { secretName: {{ . }} } } }
{{- end }}
{{- with .Values.podTLS.ca }}
pod-ca: { path: /etc/psystrike-pod-ca, source: {{ toJson . }} }
{{- end }}
{{- with .Values.podTLS.secretName }}
pod-tls: { path: /etc/psystrike-pod-tls, source: { secret: { secretName: {{ . }} } } }
{{- end }}
{{- end }}

{{- /* Not empty if psystrike accepts TLS. */ -}}
{{- define "psystrike.acceptsTLS" -}}
{{- if or .Values.tls.secretName (get .Values.options "tls-self-signed") }}true{{ end }}
{{- end }}

{{- /* Not empty if psystrike refuses plain HTTP, except for probes. */ -}}
{{- define "psystrike.refusesHTTP" -}}
{{- $certificatesOnly := and .Values.tls.clientCASecretName (not .Values.auth.tokenSecret) }}
{{- if or $certificatesOnly (get .Values.options "tls-only") }}true{{ end }}
{{- end }}

{{- /* Fails if values contradict each other, with which psystrike would not start. */ -}}
{{- define "psystrike.checkTLS" -}}
{{- if and .Values.tls.secretName (get .Values.options "tls-self-signed") }}
{{- fail "tls.secretName and options.tls-self-signed exclude each other" }}
{{- end }}
{{- if and (include "psystrike.refusesHTTP" .) (not (include "psystrike.acceptsTLS" .)) }}
{{- fail "options.tls-only and tls.clientCASecretName need tls.secretName" }}
{{- end }}
{{- if and .Values.podTLS.ca (get .Values.options "pod-tls-skip-verify") }}
{{- fail "podTLS.ca and options.pod-tls-skip-verify exclude each other" }}
{{- end }}
{{- end }}
