//! The configuration of the article's readers: its relabelling, unchanged except for the address.

/// `relabel_configs` of the article's job, as a block of YAML without indentation.
pub fn relabel_configs(psystrike: &str) -> String {
    format!(
        r"- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
  action: keep
  regex: true
- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scheme]
  action: replace
  target_label: __scheme__
  regex: (https?)
- source_labels: [
    __address__,
    __meta_kubernetes_pod_annotation_prometheus_io_port,
    __meta_kubernetes_pod_annotation_prometheus_io_path
  ]
  action: replace
  target_label: __metrics_path__
  regex: (.+)(?::\d+);(\d+);(.*)
  replacement: /pods/$1/$2$3
- source_labels: [__address__]
  target_label: instance
- target_label: __address__
  replacement: {psystrike}
- action: labelmap
  regex: __meta_kubernetes_pod_label_(.+)
- source_labels: [__meta_kubernetes_namespace]
  action: replace
  target_label: kubernetes_namespace
- source_labels: [__meta_kubernetes_pod_name]
  action: replace
  target_label: kubernetes_pod_name
- source_labels: [__meta_kubernetes_pod_node_name]
  action: replace
  target_label: kubernetes_pod_node_name
"
    )
}
