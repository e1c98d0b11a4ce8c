// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubelet plays the kubelets of one workload cluster: it registers Nodes, keeps them alive, and reports
// the pods that the scheduler binds to them the way a kubelet would, only that no container runs.
//
// It is honest about what a kubelet cannot do. A Node is not Ready before a pod of a DaemonSet that writes
// /etc/cni/net.d runs on it, and until then only pods in the network of the host start. A pod waits for the
// Secrets and ConfigMaps that it mounts. An image with the tag fail cannot be pulled. Static pods are as the
// programs are that really run. Unless a fault is asked for, probes are taken to succeed, and pods that are not
// restarted forever to end well at once.
//
// In a cluster without controllers no pod of a DaemonSet comes to be; there Nodes can be given a network for nothing.
//
// There is no network between pods: Services have endpoints, but nobody answers there. Webhooks and aggregated
// API servers inside the cluster, such as metrics.k8s.io, therefore cannot be reached. Of the API of a kubelet
// only port-forward works, to programs that really run on the machine; there are no logs and no exec.
package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	workers = 4
	byNode  = "node"
	// fallbackSubnet is where pods get addresses from when neither their Node nor the cluster has a range.
	fallbackSubnet = "10.244.0.0/16"
)

// Options of the kubelets of a cluster.
type Options struct {
	// Config reaches the cluster with the rights of an administrator.
	Config *rest.Config
	// PodSubnet is where addresses of pods come from on Nodes that have no range of their own; may be empty.
	PodSubnet string
	// Fault says what goes wrong with a pod that does not ask for a fault itself, nil if nothing does. It may be nil;
	// when it gives other answers than before, LookAgain has to be called.
	Fault func(*corev1.Pod) *Fault
	Log   logr.Logger
}

// Kubelets are the kubelets of one cluster.
type Kubelets struct {
	client    kubernetes.Interface
	podSubnet netip.Prefix
	faults    func(*corev1.Pod) *Fault
	log       logr.Logger
	recorder  record.EventRecorder
	addresses *addresses
	queue     workqueue.TypedRateLimitingInterface[item]

	nodes      corelisters.NodeLister
	pods       cache.Indexer
	secrets    cache.GenericLister
	configMaps cache.GenericLister

	mu           sync.Mutex
	known        map[string]*machine
	networkGiven bool

	stop func()
}

// machine is one kubelet.
type machine struct {
	Node
	endpoint *endpoint
	lease    *lease
	// network is set once the Node's network is there. The configuration that brought it stays on a machine
	// when the pod that wrote it goes, so it is never unset.
	network bool
}

// item is what a worker looks at: the Node of a name, or a pod.
type item struct {
	namespace, name string // no namespace: a Node
}

// Start begins to watch a cluster that answers. Stop ends it.
func Start(ctx context.Context, o Options) (*Kubelets, error) {
	subnet, _, _ := strings.Cut(o.PodSubnet, ",")
	if subnet == "" {
		subnet = fallbackSubnet
	}
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil {
		return nil, fmt.Errorf("pod subnet: %w", err)
	}
	// Metadata of custom resources has no protobuf, that of Secrets has; the typed client can always use it.
	typed := rest.CopyConfig(o.Config)
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(typed)
	if err != nil {
		return nil, err
	}
	metadataClient, err := metadata.NewForConfig(o.Config)
	if err != nil {
		return nil, err
	}

	k := &Kubelets{
		client: client, podSubnet: prefix, faults: o.Fault, log: o.Log,
		addresses: newAddresses(), known: map[string]*machine{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](50*time.Millisecond, 10*time.Second)),
	}
	objects := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(stripManagedFields))
	references := metadatainformer.NewSharedInformerFactoryWithOptions(metadataClient, 0, metadatainformer.WithTransform(stripManagedFields))
	if err := k.watch(objects, references); err != nil {
		return nil, err
	}

	// The kubelets outlive the call that started them.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	k.recorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet"})

	var running sync.WaitGroup
	k.stop = func() {
		cancel()
		k.queue.ShutDown()
		running.Wait()
		broadcaster.Shutdown()
		objects.Shutdown()
		references.Shutdown()
	}
	objects.Start(ctx.Done())
	references.Start(ctx.Done())
	running.Go(func() {
		// Without the caches a pod might look as if what it needs were missing.
		objects.WaitForCacheSync(ctx.Done())
		references.WaitForCacheSync(ctx.Done())
		for range workers {
			running.Go(func() { k.work(ctx) })
		}
	})
	running.Go(func() { k.renewLeases(ctx) })
	return k, nil
}

// Stop ends all kubelets. What they reported stays.
func (k *Kubelets) Stop() {
	k.stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.known {
		m.endpoint.close()
	}
	clear(k.known)
}

// Add starts the kubelet of a machine: its API is served, its Node registered. A Node that exists keeps its labels
// and taints, as with a kubelet that is restarted. To add a Node that is there already does nothing.
func (k *Kubelets) Add(ctx context.Context, n Node, serving *tls.Config) error {
	k.mu.Lock()
	_, known := k.known[n.Name]
	k.mu.Unlock()
	if known {
		return nil
	}
	endpoint, err := serve(ctx, n, serving, k.log)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	m := &machine{Node: n, endpoint: endpoint, lease: newLease(n.Name)}
	registered, err := k.client.CoreV1().Nodes().Create(ctx, n.node(metav1.Now()), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		registered, err = k.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	}
	if err != nil {
		endpoint.close()
		return fmt.Errorf("register node %s: %w", n.Name, err)
	}
	m.lease.owner = registered
	k.mu.Lock()
	// A given network leaves nothing on the machine.
	m.network = isReady(registered) && !k.networkGiven
	k.known[n.Name] = m
	k.mu.Unlock()
	k.renewLease(ctx, m)
	k.queue.Add(item{name: n.Name})
	k.enqueuePodsOf(n.Name)
	return nil
}

// Halt ends the kubelet of a machine as a cut of power does: its API is gone, no sign of life comes any more, and what
// it reported stays. Add starts it again.
func (k *Kubelets) Halt(name string) {
	k.mu.Lock()
	m, ok := k.known[name]
	delete(k.known, name)
	k.mu.Unlock()
	if ok {
		m.endpoint.close()
	}
}

// LookAgain looks at all pods, since what Fault says of them may have changed.
func (k *Kubelets) LookAgain() {
	for _, name := range k.names() {
		k.enqueuePodsOf(name)
	}
}

// Count tells of how many pods on the machines whose kubelets run something is true, besides static ones.
func (k *Kubelets) Count(of func(*corev1.Pod) bool) int {
	count := 0
	for _, name := range k.names() {
		for _, pod := range k.podsOf(name) {
			if !isStatic(pod) && of(pod) {
				count++
			}
		}
	}
	return count
}

// LookAgainOn looks at the pods of one machine, since its programs may have changed.
func (k *Kubelets) LookAgainOn(name string) { k.enqueuePodsOf(name) }

// Remove stops the kubelet of a machine, if it runs, and removes its Node and all pods on it: no kubelet is left that
// could say that they ended. The kubelet is gone in any case; the error tells that the cluster could not be told.
func (k *Kubelets) Remove(ctx context.Context, name string) error {
	k.Halt(name)
	// The API server that was being spoken with may just have gone, maybe with this very machine: another one
	// takes over within a moment.
	return retry.OnError(wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 5}, func(error) bool { return ctx.Err() == nil }, func() error {
		return k.removeNode(ctx, name)
	})
}

func (k *Kubelets) removeNode(ctx context.Context, name string) error {
	// The Node first: as long as it is there, DaemonSets put new pods on it.
	if err := client.IgnoreNotFound(k.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	// The garbage collector would do it as well, where there is one.
	group.Go(func() error {
		return client.IgnoreNotFound(k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, name, metav1.DeleteOptions{}))
	})
	for _, pod := range k.podsOf(name) {
		group.Go(func() error { return k.deleteNow(ctx, pod) })
	}
	return group.Wait()
}

// machine gives the kubelet of a Node, nil when the Node is not one of ours.
func (k *Kubelets) machine(node string) *machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[node]
}

func (k *Kubelets) hasNetwork(m *machine) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return m.network || k.networkGiven
}

// GiveNetwork says whether every Node has a network without anybody having installed one. When it is taken back, the
// Nodes on which a pod of a CNI ran keep theirs.
func (k *Kubelets) GiveNetwork(given bool) {
	k.mu.Lock()
	changed := k.networkGiven != given
	k.networkGiven = given
	k.mu.Unlock()
	if !changed {
		return
	}
	for _, name := range k.names() {
		k.queue.Add(item{name: name})
		k.enqueuePodsOf(name)
	}
}

// setNetwork reports whether the network is new.
func (k *Kubelets) setNetwork(m *machine) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	isNew := !m.network
	m.network = true
	return isNew
}

func (k *Kubelets) watch(objects informers.SharedInformerFactory, refs metadatainformer.SharedInformerFactory) error {
	nodes := objects.Core().V1().Nodes()
	k.nodes = nodes.Lister()
	pods := objects.Core().V1().Pods().Informer()
	k.pods = pods.GetIndexer()
	if err := pods.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		return []string{obj.(*corev1.Pod).Spec.NodeName}, nil
	}}); err != nil {
		return err
	}
	secrets := refs.ForResource(corev1.SchemeGroupVersion.WithResource("secrets"))
	configMaps := refs.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps"))
	k.secrets, k.configMaps = secrets.Lister(), configMaps.Lister()

	_, err := nodes.Informer().AddEventHandler(handler(func(obj metav1.Object, gone bool) {
		k.queue.Add(item{name: obj.GetName()})
	}))
	if err != nil {
		return err
	}
	_, err = pods.AddEventHandler(handler(func(obj metav1.Object, gone bool) {
		pod := obj.(*corev1.Pod)
		if gone {
			k.addresses.free(pod.UID)
			k.queue.Add(item{name: pod.Spec.NodeName}) // a static pod comes back
			return
		}
		if !pod.Spec.HostNetwork {
			k.addresses.keep(pod.UID, pod.Status.PodIP)
		}
		k.queue.Add(item{namespace: pod.Namespace, name: pod.Name})
	}))
	if err != nil {
		return err
	}
	for _, informer := range []cache.SharedIndexInformer{secrets.Informer(), configMaps.Informer()} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
			if object, err := meta.Accessor(obj); err == nil {
				k.enqueuePending(object.GetNamespace())
			}
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// stripManagedFields leaves out what no kubelet looks at and what is a good part of an object.
func stripManagedFields(obj any) (any, error) {
	if object, err := meta.Accessor(obj); err == nil {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

func handler(react func(obj metav1.Object, gone bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { react(obj.(metav1.Object), false) },
		UpdateFunc: func(_, obj any) { react(obj.(metav1.Object), false) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			react(obj.(metav1.Object), true)
		},
	}
}

func (k *Kubelets) podsOf(node string) []*corev1.Pod {
	objects, err := k.pods.ByIndex(byNode, node)
	if err != nil {
		return nil // the index is there from the start
	}
	pods := make([]*corev1.Pod, 0, len(objects))
	for _, obj := range objects {
		pods = append(pods, obj.(*corev1.Pod))
	}
	return pods
}

func (k *Kubelets) enqueuePodsOf(node string) {
	for _, pod := range k.podsOf(node) {
		k.queue.Add(item{namespace: pod.Namespace, name: pod.Name})
	}
}

// enqueuePending looks again at pods that may have waited for an object of their namespace.
func (k *Kubelets) enqueuePending(namespace string) {
	objects, err := k.pods.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return // the index is there from the start
	}
	for _, obj := range objects {
		if pod := obj.(*corev1.Pod); pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName != "" {
			k.queue.Add(item{namespace: pod.Namespace, name: pod.Name})
		}
	}
}

func (k *Kubelets) work(ctx context.Context) {
	for {
		next, shutdown := k.queue.Get()
		if shutdown {
			return
		}
		err := k.sync(ctx, next)
		switch {
		case err == nil, apierrors.IsNotFound(err):
			k.queue.Forget(next)
		default:
			if ctx.Err() == nil {
				k.log.V(1).Info("will try again", "namespace", next.namespace, "name", next.name, "cause", err.Error())
			}
			k.queue.AddRateLimited(next)
		}
		k.queue.Done(next)
	}
}

func (k *Kubelets) sync(ctx context.Context, next item) error {
	if next.namespace == "" {
		return k.syncNode(ctx, next.name)
	}
	obj, exists, err := k.pods.GetByKey(next.namespace + "/" + next.name)
	if err != nil || !exists {
		return err
	}
	pod := obj.(*corev1.Pod)
	m := k.machine(pod.Spec.NodeName)
	if m == nil {
		return nil
	}
	if pod.DeletionTimestamp != nil {
		return k.finishPod(ctx, pod)
	}
	return k.syncPod(ctx, m, pod)
}

func (k *Kubelets) syncNode(ctx context.Context, name string) error {
	m := k.machine(name)
	if m == nil {
		return nil
	}
	node, err := k.nodes.Get(name)
	if err != nil {
		return err // not there: it comes with an event, or was deleted, and a kubelet registers only when it starts
	}
	for _, static := range m.StaticPods {
		if _, exists, _ := k.pods.GetByKey(static.Namespace + "/" + static.Name); exists {
			continue
		}
		mirror := static.DeepCopy()
		mirror.OwnerReferences = []metav1.OwnerReference{*ownerRef(node)}
		if _, err := k.client.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	status := m.status(node.Status, k.hasNetwork(m), metav1.Now())
	if equality.Semantic.DeepEqual(status, node.Status) {
		return nil
	}
	wanted := node.DeepCopy()
	wanted.Status = status
	patch, err := mergePatch(node, wanted, corev1.Node{})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Nodes().PatchStatus(ctx, name, patch)
	return err
}

func (k *Kubelets) syncPod(ctx context.Context, m *machine, pod *corev1.Pod) error {
	if hasEnded(pod) {
		return nil
	}
	s := surroundings{
		now: metav1.Now(), hostIP: m.Address.Addr().String(), missing: k.missing(pod),
		fault: k.fault(pod), programs: m.programs(pod), booted: m.Booted,
	}
	network := k.hasNetwork(m)
	if !pod.Spec.HostNetwork && network {
		ip, err := k.addresses.of(pod.UID, k.podRange(pod.Spec.NodeName))
		if err != nil {
			return err
		}
		s.podIP = ip.String()
	}
	status, then := podStatus(pod, network, s)
	if then > 0 {
		k.queue.AddAfter(item{namespace: pod.Namespace, name: pod.Name}, then)
	}
	if !equality.Semantic.DeepEqual(status, pod.Status) {
		if err := k.writePodStatus(ctx, pod, status); err != nil {
			return err
		}
		for _, e := range events(pod, status, startBlockers(pod, network, s), s.fault) {
			k.recorder.Event(pod, e.kind, e.reason, e.message)
		}
	}
	if isRunning(status) && installsNetwork(pod) && k.setNetwork(m) {
		k.queue.Add(item{name: m.Name})
		k.enqueuePodsOf(m.Name)
	}
	return nil
}

// fault is what goes wrong with a pod. Static pods are as their programs are.
func (k *Kubelets) fault(pod *corev1.Pod) *Fault {
	if isStatic(pod) {
		return nil
	}
	if f := annotated(pod); f != nil || k.faults == nil {
		return f
	}
	return k.faults(pod)
}

// programs are what the containers of a static pod really are.
func (m *machine) programs(pod *corev1.Pod) map[string]Program {
	if m.Program == nil || !isStatic(pod) {
		return nil
	}
	programs := map[string]Program{}
	for _, c := range pod.Spec.Containers {
		if p, known := m.Program(c.Name); known {
			programs[c.Name] = p
		}
	}
	return programs
}

func isStatic(pod *corev1.Pod) bool {
	_, static := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return static
}

// finishPod lets a pod go that was asked to: its containers end at once.
func (k *Kubelets) finishPod(ctx context.Context, pod *corev1.Pod) error {
	if len(pod.Finalizers) > 0 && !hasEnded(pod) {
		// Whoever holds the finalizer, such as a Job, wants to see how the pod ended.
		return k.writePodStatus(ctx, pod, endedStatus(pod, metav1.Now()))
	}
	return k.deleteNow(ctx, pod)
}

// deleteNow removes a pod without waiting for anybody.
func (k *Kubelets) deleteNow(ctx context.Context, pod *corev1.Pod) error {
	grace := int64(0)
	err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsConflict(err) {
		return nil // another pod has taken its place
	}
	return client.IgnoreNotFound(err)
}

func (k *Kubelets) writePodStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	wanted := pod.DeepCopy()
	wanted.Status = status
	// A pod of the same name may have taken its place: naming the UID makes the server refuse the patch then.
	known := pod.DeepCopy()
	known.UID = ""
	patch, err := mergePatch(known, wanted, corev1.Pod{})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// missing finds out which objects a pod waits for.
func (k *Kubelets) missing(pod *corev1.Pod) map[reference]bool {
	missing := map[reference]bool{}
	for _, ref := range references(pod) {
		lister := k.secrets
		if ref.kind == "ConfigMap" {
			lister = k.configMaps
		}
		if _, err := lister.ByNamespace(pod.Namespace).Get(ref.name); err != nil {
			missing[ref] = true
		}
	}
	return missing
}

// podRange is where the addresses of a Node's pods come from.
func (k *Kubelets) podRange(node string) netip.Prefix {
	if n, err := k.nodes.Get(node); err == nil {
		if prefix, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			return prefix
		}
	}
	return k.podSubnet
}

func mergePatch[T any](from, to *T, kind T) ([]byte, error) {
	before, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, kind)
}

// ownerRef makes an object go with its Node.
func ownerRef(node *corev1.Node) *metav1.OwnerReference {
	return metav1.NewControllerRef(node, corev1.SchemeGroupVersion.WithKind("Node"))
}

// names lists the machines whose kubelets run.
func (k *Kubelets) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.known))
}
