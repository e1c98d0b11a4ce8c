{{/*
Arguments of the kubelet on all machines. Containers share the disk of their host, which may well be
fuller than a kubelet likes. The label tells from which release a node was made; since it differs from
one version of the stack to the next, every version replaces the machines.
*/}}
{{- define "kubelet.extraArgs" -}}
kubeletExtraArgs:
  - name: eviction-hard
    value: nodefs.available<0%,nodefs.inodesFree<0%,imagefs.available<0%
  - name: node-labels
    value: clusterstack.x-k8s.io/release={{ .Release.Name }}-{{ .Chart.Version }}
{{- end }}
