// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubeadm knows what kubeadm leaves behind in a cluster that it initialized: its own configuration,
// what nodes need to join, kube-proxy and CoreDNS, and the static pods of the control plane.
//
// Cluster API reads some of it and users see the rest. Whatever kubeadm would only need to run is left out.
package kubeadm

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

const (
	controlPlaneTaint = "node-role.kubernetes.io/control-plane"
	registry          = "registry.k8s.io"
	etcdImage         = "etcd:3.6.8-0"
)

// coreDNS is the version of CoreDNS that kubeadm of a minor installs.
var coreDNS = map[string]string{
	"1.33": "v1.12.0",
	"1.34": "v1.12.1",
	"1.35": "v1.13.1",
	"1.36": "v1.14.2",
}

// Where kubeadm leaves its configuration, for machines that join later; in namespace kube-system.
const (
	ConfigMapName           = "kubeadm-config"
	ClusterConfigurationKey = "ClusterConfiguration"
)

// newestCoreDNS is for minors that are not listed.
const newestCoreDNS = "v1.14.2"

// Cluster is what the objects depend on.
type Cluster struct {
	// Server is the URL of the cluster.
	Server string
	// CA is the certificate of the cluster's authority.
	CA []byte
	// Version of Kubernetes, such as v1.35.4.
	Version string
	// Data is what the machine that initializes the cluster was given.
	Data bootstrap.Data
	// ServiceSubnet and DNSDomain as the API server has them.
	ServiceSubnet, DNSDomain string
	PodSubnet                string
}

// Objects lists what the first machine of a control plane creates. The first of them, kubeadm's own
// configuration, is what tells Cluster API that the cluster is initialized.
func Objects(c Cluster) ([]client.Object, error) {
	config, err := bootstrap.ParseClusterConfiguration(c.Data.ClusterConfiguration)
	if err != nil {
		return nil, err
	}
	dns, err := dnsAddress(c.ServiceSubnet)
	if err != nil {
		return nil, err
	}
	info, err := clusterInfo(c)
	if err != nil {
		return nil, err
	}
	objects := []client.Object{
		configMap(ConfigMapName, map[string]string{ClusterConfigurationKey: c.Data.ClusterConfiguration}),
		configMap("kubelet-config", map[string]string{"kubelet": kubeletConfiguration(dns, c.DNSDomain)}),
	}
	objects = append(objects, info...)
	if !config.Proxy.Disabled && !c.Data.Skips("addon/kube-proxy") {
		objects = append(objects, kubeProxy(c, config)...)
	}
	if !config.DNS.Disabled && !c.Data.Skips("addon/coredns") {
		objects = append(objects, dnsObjects(c, config, dns)...)
	}
	return objects, nil
}

// StaticPods are the mirrors of the pods that run on every machine of a control plane; that of etcd where the cluster
// has its own.
func StaticPods(node, version string, etcd bool) []*corev1.Pod {
	images := map[string]string{}
	names := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	for _, name := range names {
		images[name] = name + ":" + version
	}
	if etcd {
		images["etcd"] = etcdImage
		names = append(names, "etcd")
	}
	var pods []*corev1.Pod
	for _, name := range names {
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name + "-" + node, Namespace: metav1.NamespaceSystem,
				Labels: map[string]string{"component": name, "tier": "control-plane"},
				Annotations: map[string]string{
					corev1.MirrorPodAnnotationKey: name,
					"kubernetes.io/config.hash":   name,
					"kubernetes.io/config.source": "file",
					"kubernetes.io/config.seen":   "1970-01-01T00:00:00Z",
				},
			},
			Spec: corev1.PodSpec{
				NodeName:          node,
				HostNetwork:       true,
				PriorityClassName: "system-node-critical",
				Priority:          ptr.To[int32](2000001000),
				Tolerations:       []corev1.Toleration{{Effect: corev1.TaintEffectNoExecute, Operator: corev1.TolerationOpExists}},
				Containers:        []corev1.Container{{Name: name, Image: registry + "/" + images[name], Command: []string{name}}},
			},
		})
	}
	return pods
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem}, Data: data}
}

// dnsAddress is the tenth address of the services' first range.
func dnsAddress(serviceSubnet string) (string, error) {
	first, _, _ := strings.Cut(serviceSubnet, ",")
	prefix, err := netip.ParsePrefix(first)
	if err != nil {
		return "", fmt.Errorf("service subnet: %w", err)
	}
	address := prefix.Masked().Addr()
	for range 10 {
		address = address.Next()
	}
	return address.String(), nil
}

func kubeletConfiguration(dns, domain string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
cgroupDriver: systemd
clusterDNS:
- %s
clusterDomain: %s
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
`, dns, domain)
}

// clusterInfo lets anybody learn where the cluster is and how to trust it.
func clusterInfo(c Cluster) ([]client.Object, error) {
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{Clusters: map[string]*clientcmdapi.Cluster{
		"": {Server: c.Server, CertificateAuthorityData: c.CA},
	}})
	if err != nil {
		return nil, err
	}
	const name, role = "cluster-info", "kubeadm:bootstrap-signer-clusterinfo"
	return []client.Object{
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespacePublic},
			Data:       map[string]string{"kubeconfig": string(kubeconfig)},
		},
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: role, Namespace: metav1.NamespacePublic},
			Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{name}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role, Namespace: metav1.NamespacePublic},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:anonymous"}},
		},
	}, nil
}

// account is a ServiceAccount in kube-system that a ClusterRole is bound to.
func account(name, binding, role string) []client.Object {
	return []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: binding},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: metav1.NamespaceSystem}},
		},
	}
}

func kubeProxy(c Cluster, config bootstrap.ClusterConfiguration) []client.Object {
	const name = "kube-proxy"
	labels := map[string]string{"k8s-app": name}
	settings := configMap(name, map[string]string{
		"config.conf": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection:
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
clusterCIDR: %q
`, c.PodSubnet),
		"kubeconfig.conf": fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: %s
contexts:
- name: default
  context: {cluster: default, namespace: default, user: default}
current-context: default
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
`, c.Server),
	})
	settings.Labels = map[string]string{"app": name}

	return append(account(name, "kubeadm:node-proxier", "system:node-proxier"), settings, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: labels},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					PriorityClassName:  "system-node-critical",
					HostNetwork:        true,
					ServiceAccountName: name,
					NodeSelector:       map[string]string{corev1.LabelOSStable: "linux"},
					Tolerations:        []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers: []corev1.Container{{
						Name:            name,
						Image:           config.ImageRepository + "/kube-proxy:" + c.Version,
						Command:         []string{"/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override=$(NODE_NAME)"},
						Env:             []corev1.EnvVar{{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}},
						SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
						VolumeMounts: []corev1.VolumeMount{
							{Name: name, MountPath: "/var/lib/kube-proxy"},
							{Name: "xtables-lock", MountPath: "/run/xtables.lock"},
							{Name: "lib-modules", MountPath: "/lib/modules", ReadOnly: true},
						},
					}},
					Volumes: []corev1.Volume{
						configMapVolume(name, name),
						hostPathVolume("xtables-lock", "/run/xtables.lock", corev1.HostPathFileOrCreate),
						hostPathVolume("lib-modules", "/lib/modules", corev1.HostPathUnset),
					},
				},
			},
		},
	})
}

func dnsObjects(c Cluster, config bootstrap.ClusterConfiguration, address string) []client.Object {
	const name, app = "coredns", "kube-dns"
	labels := map[string]string{"k8s-app": app}
	settings := configMap(name, map[string]string{"Corefile": corefile(c.DNSDomain)})

	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "system:coredns"},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}},
			{Verbs: []string{"list", "watch"}, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: app, Namespace: metav1.NamespaceSystem,
			Labels:      map[string]string{"k8s-app": app, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
			Annotations: map[string]string{"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: address, Selector: labels,
			Ports: []corev1.ServicePort{servicePort("dns", corev1.ProtocolUDP, 53), servicePort("dns-tcp", corev1.ProtocolTCP, 53), servicePort("metrics", corev1.ProtocolTCP, 9153)},
		},
	}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromInt32(1))},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					PriorityClassName:  "system-cluster-critical",
					ServiceAccountName: name,
					DNSPolicy:          corev1.DNSDefault,
					NodeSelector:       map[string]string{corev1.LabelOSStable: "linux"},
					// These and no more: a pod that tolerates everything comes back to the Node that it was just
					// drained from.
					Tolerations: []corev1.Toleration{
						{Key: "CriticalAddonsOnly", Operator: corev1.TolerationOpExists},
						{Key: controlPlaneTaint, Effect: corev1.TaintEffectNoSchedule},
					},
					Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
						PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
							Weight: 100,
							PodAffinityTerm: corev1.PodAffinityTerm{
								LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
									{Key: "k8s-app", Operator: metav1.LabelSelectorOpIn, Values: []string{app}},
								}},
								TopologyKey: corev1.LabelHostname,
							},
						}},
					}},
					Containers: []corev1.Container{{
						Name: name, Image: dnsImage(c.Version, config), Args: []string{"-conf", "/etc/coredns/Corefile"},
						Ports: []corev1.ContainerPort{
							containerPort("dns", corev1.ProtocolUDP, 53), containerPort("dns-tcp", corev1.ProtocolTCP, 53), containerPort("metrics", corev1.ProtocolTCP, 9153),
							containerPort("liveness-probe", corev1.ProtocolTCP, 8080), containerPort("readiness-probe", corev1.ProtocolTCP, 8181),
						},
						LivenessProbe:  httpProbe("/health", "liveness-probe", 60, 5),
						ReadinessProbe: httpProbe("/ready", "readiness-probe", 0, 0),
						Resources: corev1.ResourceRequirements{
							Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("70Mi")},
							Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("170Mi")},
						},
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: ptr.To(false),
							ReadOnlyRootFilesystem:   ptr.To(true),
							Capabilities:             &corev1.Capabilities{Add: []corev1.Capability{"NET_BIND_SERVICE"}, Drop: []corev1.Capability{"ALL"}},
						},
						VolumeMounts: []corev1.VolumeMount{{Name: "config-volume", MountPath: "/etc/coredns", ReadOnly: true}},
					}},
					Volumes: []corev1.Volume{configMapVolume("config-volume", name)},
				},
			},
		},
	}
	return append(account(name, "system:coredns", "system:coredns"), role, settings, service, deployment)
}

// dnsImage follows kubeadm: only in the default registry the image has a folder of its own.
func dnsImage(version string, config bootstrap.ClusterConfiguration) string {
	repository := cmp.Or(config.DNS.ImageRepository, config.ImageRepository)
	if repository == registry {
		repository += "/coredns"
	}
	return repository + "/coredns:" + cmp.Or(config.DNS.ImageTag, coreDNS[Minor(version)], newestCoreDNS)
}

// Minor of v1.35.4 is 1.35.
func Minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func corefile(domain string) string {
	return fmt.Sprintf(`.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes %s in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
`, domain)
}

func servicePort(name string, protocol corev1.Protocol, port int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: port, TargetPort: intstr.FromInt32(port)}
}

func containerPort(name string, protocol corev1.Protocol, port int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, Protocol: protocol, ContainerPort: port}
}

func httpProbe(path, port string, delay, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:        corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(port)}},
		InitialDelaySeconds: delay, FailureThreshold: failures,
	}
}

func configMapVolume(name, configMap string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: configMap},
	}}}
}

func hostPathVolume(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}
