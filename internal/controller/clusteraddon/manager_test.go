// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	operatorconfig "github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// TestWatchesWake runs the controllers in a manager, with exactly the rights of the operator and with connections
// of Cluster API's own, and shows that each change that matters wakes them. Nothing is polled in less than an hour.
func TestWatchesWake(t *testing.T) {
	e := newEnv(t, workloadServer(t))
	e.startManager()

	// A Cluster whose release nobody has asked for yet is not ours.
	gate := `{name: cni, action: apply, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: ` + e.key.Name + `-gate, namespace: kube-system}], conditions: o.data.text == "go"}}`
	cluster := apitest.Cluster(e.ns, e.key.Name, v1, k135)
	cluster.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "DevCluster", Name: "infra"}
	infra := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"backend": map[string]any{"docker": map[string]any{}}}}}
	infra.SetAPIVersion("infrastructure.cluster.x-k8s.io/v1beta2")
	infra.SetKind("DevCluster")
	infra.SetNamespace(e.ns)
	infra.SetName("infra")
	if err := e.client.Create(e.Context(), infra); err != nil {
		t.Fatal(err)
	}
	if err := e.client.Create(e.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	e.publish(v1, both(gate), starter1)
	e.await("the release to adopt the Cluster", func(a *v1alpha1.ClusterAddon) bool {
		return has(a, v1alpha1.ClusterReadyCondition, "False", v1alpha1.ControlPlaneNotReadyReason)
	})

	// Its control plane comes up.
	e.kubeconfig()
	e.initialize()
	e.await("the control plane to be seen and the condition of the stage to be evaluated", func(a *v1alpha1.ClusterAddon) bool {
		return has(a, v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.WaitingForPreConditionReason)
	})

	// What the stage waits for happens in the workload cluster.
	e.put("gate", map[string]string{"text": "not yet"})
	e.put("gate", map[string]string{"text": "go"})
	e.await("the change in the workload cluster to be seen", ready(v1))

	// The user of the cluster sets a value.
	e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{
		Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{{Kind: v1alpha1.ValuesFromSecret, Name: "cni"}},
	}}})
	e.await("the missing Secret to be told", func(a *v1alpha1.ClusterAddon) bool {
		return has(a, v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason)
	})
	e.putSecret("cni", "colour: red\n")
	e.await("the Secret to be seen", ready(v1))

	// The user moves the Cluster to another release, and labels it.
	e.publish(v2, both("csi"), addons{"csi": object("csi", "{{ .Values.colour }}")})
	e.use(v2, k135)
	e.await("the other class to be seen", ready(v2))
	e.edit(func(c *clusterv1.Cluster) { c.Labels = map[string]string{"colour": "green"} })
	e.awaitObjects("csi: green", "gate: go")

	// Somebody changes an object of an addon, and deletes it.
	e.set(v1alpha1.ClusterAddonSettingsSpec{Watch: true})
	e.put("csi", map[string]string{"text": "somebody's"})
	e.awaitObjects("csi: green", "gate: go")

	if err := e.workload.Delete(e.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: e.key.Name + "-csi"}}); err != nil {
		t.Fatal(err)
	}
	e.awaitObjects("csi: green", "gate: go")

	// A hook asks.
	ask := e.ask(v2, "v1.35.2", k135)
	e.await("what was asked for to be answered", func(*v1alpha1.ClusterAddon) bool { return e.record().Proves(ask) })

	// Somebody deletes the ClusterAddon.
	uid := e.addon().UID
	if err := e.client.Delete(e.Context(), e.addon()); err != nil {
		t.Fatal(err)
	}
	e.await("the ClusterAddon to be made anew", func(a *v1alpha1.ClusterAddon) bool { return a.UID != uid && ready(v2)(a) })

	// The Cluster goes.
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = []string{"example.com/machines"} })
	if err := e.client.Delete(e.Context(), e.getCluster()); err != nil {
		t.Fatal(err)
	}
	e.await("the ClusterAddon to be let go", func(a *v1alpha1.ClusterAddon) bool { return len(a.Finalizers) == 0 })
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = nil })
}

func has(addon *v1alpha1.ClusterAddon, conditionType, status, reason string) bool {
	c := addon.Status.Conditions.Get(conditionType)
	return c != nil && string(c.Status) == status && c.Reason == reason
}

func ready(class string) func(*v1alpha1.ClusterAddon) bool {
	return func(a *v1alpha1.ClusterAddon) bool {
		return a.Spec.ClusterStack == class && a.Status.Conditions.IsTrue(v1alpha1.ReadyCondition)
	}
}

// await watches the ClusterAddon until it is as wanted.
func (e *env) await(what string, is func(*v1alpha1.ClusterAddon) bool) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 2*time.Minute)
	defer cancel()
	watch, err := e.client.Watch(ctx, &v1alpha1.ClusterAddonList{}, client.InNamespace(e.ns))
	if err != nil {
		e.Fatal(err)
	}
	defer watch.Stop()
	last := "there is none"
	for {
		select {
		case event := <-watch.ResultChan():
			addon, ok := event.Object.(*v1alpha1.ClusterAddon)
			if !ok {
				continue
			}
			if last = describe(addon); is(addon) {
				return
			}
		case <-ctx.Done():
			e.Fatalf("waited in vain for %s; the ClusterAddon says:\n%s", what, last)
		}
	}
}

// awaitObjects watches the workload cluster until the objects of the Cluster's addons are as wanted.
func (e *env) awaitObjects(want ...string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 2*time.Minute)
	defer cancel()
	workload, err := client.NewWithWatch(e.config, client.Options{})
	if err != nil {
		e.Fatal(err)
	}
	watch, err := workload.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace("kube-system"))
	if err != nil {
		e.Fatal(err)
	}
	defer watch.Stop()
	for strings.Join(e.has(), ", ") != strings.Join(want, ", ") {
		select {
		case <-watch.ResultChan():
		case <-ctx.Done():
			e.Fatalf("objects are %v, want %v; the ClusterAddon says:\n%s", e.has(), want, describe(e.addon()))
		}
	}
}

// kubeconfig creates the Secret by which the workload cluster is reached.
func (e *env) kubeconfig() {
	e.Helper()
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: e.config.Host, CertificateAuthorityData: fileOr(e, e.config.CAData, e.config.CAFile)}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
			Token:                 e.config.BearerToken,
			ClientCertificateData: fileOr(e, e.config.CertData, e.config.CertFile), ClientKeyData: fileOr(e, e.config.KeyData, e.config.KeyFile),
		}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	if err != nil {
		e.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.ns, Name: e.key.Name + "-kubeconfig", Labels: map[string]string{clusterv1.ClusterNameLabel: e.key.Name},
		},
		Type: clusterv1.ClusterSecretType,
		Data: map[string][]byte{"value": data},
	}
	if err := e.client.Create(e.Context(), secret); err != nil {
		e.Fatal(err)
	}
}

func fileOr(e *env, data []byte, file string) []byte {
	e.Helper()
	if len(data) == 0 && file != "" {
		e.Fatal("the configuration of the workload cluster refers to files")
	}
	return data
}

// userWithOurRights returns a user who has the rights of the operator's ClusterRole, and no other.
func (e *env) userWithOurRights() string {
	e.Helper()
	role := &rbacv1.ClusterRole{}
	if err := yaml.Unmarshal(operatorconfig.ClusterRole(), role); err != nil {
		e.Fatal(err)
	}
	role.Name = "operator-" + e.ns
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: role.Name}},
	}
	for _, obj := range []client.Object{role, binding} {
		if err := e.client.Create(e.Context(), obj); err != nil {
			e.Fatal(err)
		}
	}
	return role.Name
}

// startManager runs the controllers until the test ends.
func (e *env) startManager() {
	e.Helper()
	api := rest.CopyConfig(sandboxtest.APIServer(e.T))
	api.QPS = -1
	api.Impersonate.UserName = e.userWithOurRights()
	yes := true
	mgr, err := ctrl.NewManager(api, ctrl.Options{
		Scheme:     kinds.Scheme(e.T),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{e.ns: {}}},
		Client:     client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Controller: config.Controller{SkipNameValidation: &yes},
	})
	if err != nil {
		e.Fatal(err)
	}
	clusters := workload.New(mgr.GetClient(), mgr.GetAPIReader(), workload.Options{UserAgent: "test", Retry: 100 * time.Millisecond})
	if err := clusters.SetupWithManager(mgr, controller.Options{}); err != nil {
		e.Fatal(err)
	}
	opener := releases.New(mgr.GetClient(), e.store, e.source, "memory")
	r := New(mgr.GetClient(), mgr.GetAPIReader(), clusters, opener, e.recorder, Options{GatePoll: time.Hour, Recheck: 10 * time.Hour})
	if err := r.SetupWithManager(mgr, Setup{Connected: clusters.Changes()}); err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithCancel(e.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	e.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			e.Error(err)
		}
	})
}
