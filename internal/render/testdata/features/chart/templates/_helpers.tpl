{{- define "unused" -}}
{{ .Values.serviceAccount.create }}
{{- end -}}
{{- define "name" -}}{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}{{- end -}}
