{{/* The version of the chart is that of the stack's addons, so the label tells what a cluster runs. */}}
{{- define "labels" -}}
app.kubernetes.io/name: metrics-server
app.kubernetes.io/version: {{ .Chart.AppVersion }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
