{{/* What a new chart comes with. Nobody calls it, and there is no such value. */}}
{{- define "cluster-class.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default "x" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "cluster-class.name" -}}
{{ .Release.Name }}-{{ .Chart.Version }}
{{- end }}
