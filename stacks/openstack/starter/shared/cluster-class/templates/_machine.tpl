{{/*
How a machine registers as a node. cloud-init fills in what stands in braces. The label tells from which release a node was
made; since it differs from one version of the stack to the next, every version replaces the machines.
*/}}
{{- define "nodeRegistration" -}}
nodeRegistration:
  name: '{{ "{{" }} local_hostname {{ "}}" }}'
  kubeletExtraArgs:
    - name: cloud-provider
      value: external
    - name: provider-id
      value: openstack:///{{ "{{" }} instance_id {{ "}}" }}
    - name: node-labels
      value: clusterstack.x-k8s.io/release={{ .Release.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* A machine before the patches of the ClusterClass, which set flavor, image and disk from the variables. */}}
{{- define "machine" -}}
spec:
  template:
    spec:
      flavor: from-a-variable
      image:
        filter:
          name: from-a-variable
{{- end }}
