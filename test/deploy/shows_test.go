// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// operations is the page that says what the operator shows.
func operations(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/reference/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// rows returns the cells of a table of a page, without backquotes, whose first cell has a form.
func rows(page, form string) [][]string {
	var found [][]string
	first := regexp.MustCompile("^" + form + "$")
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		if strings.HasPrefix(line, "| `") && first.MatchString(cells[0]) {
			found = append(found, cells)
		}
	}
	return found
}

// metrics are for those who may read them, over TLS, and are those of the documentation.
func (o *installed) metrics(t *testing.T) {
	get := func(path, token string) (int, []byte) {
		t.Helper()
		c, err := rest.HTTPClientFor(&rest.Config{BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Get("https://" + o.diag + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, body
	}
	for name, tc := range map[string]struct {
		token string
		want  int
	}{"Anonymous": {"", http.StatusUnauthorized}, "WithoutTheRight": {o.config.BearerToken, http.StatusForbidden}} {
		for _, path := range []string{"/metrics", "/debug/pprof/heap", "/debug/flags/v"} {
			if code, _ := get(path, tc.token); code != tc.want {
				t.Errorf("%s: %s answers %d, want %d", name, path, code, tc.want)
			}
		}
	}
	scraped := o.scrape(t)
	got := map[string]string{}
	for name, family := range scraped {
		if !strings.HasPrefix(name, "cluster_stack_") {
			continue
		}
		labels := map[string]bool{}
		for _, series := range family.GetMetric() {
			for _, label := range series.GetLabel() {
				labels[label.GetName()] = true
			}
		}
		got[name] = strings.Join(slices.Sorted(maps.Keys(labels)), ", ")
		if series := len(family.GetMetric()); series > 60 {
			t.Errorf("%s has %d series for one cluster", name, series)
		}
	}
	want := map[string]string{}
	for _, row := range rows(operations(t), "cluster_stack_[a-z_]+") {
		labels := strings.Fields(strings.ReplaceAll(row[1], ",", " "))
		slices.Sort(labels)
		want[row[0]] = strings.Join(labels, ", ")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("labels of the series (-documented +shown):\n%s", diff)
	}
	for _, other := range []string{"controller_runtime_reconcile_total", "go_goroutines", "workqueue_depth"} {
		if scraped[other] == nil {
			t.Errorf("%s is not shown", other)
		}
	}
}

// scrape reads the metrics as Prometheus does, by a ServiceAccount that is bound to the ClusterRole for that.
func (o *installed) scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	const reader = "prometheus"
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: reader},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cso-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: reader}},
	}
	for _, object := range []client.Object{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: reader}}, binding} {
		if err := o.Create(t.Context(), object); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
	config, _ := o.login(t, reader)
	c, err := rest.HTTPClientFor(&rest.Config{BearerToken: config.BearerToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	var families map[string]*dto.MetricFamily
	await(t, "metrics", func(context.Context) (bool, error) {
		response, err := c.Get("https://" + o.diag + "/metrics")
		if err != nil {
			return false, err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return false, nil // the right is new
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err = parser.TextToMetricFamilies(response.Body)
		return err == nil, err
	})
	return families
}

// events of one cluster from its creation to an upgrade are on objects that users look at, and say what the
// documentation says.
func (o *installed) events(t *testing.T) {
	documented := map[string]string{} // the type of an event by its reason, for those that are no conditions
	for _, row := range rows(operations(t), "[A-Z][A-Za-z]+") {
		documented[row[0]] = row[2]
	}
	if len(documented) < 5 {
		t.Fatalf("the page has %d reasons", len(documented))
	}
	reasons, err := os.ReadFile(filepath.Join(root, "docs/reference/conditions.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, event := range o.told(t) {
		where := event.Regarding.Kind + " " + event.Regarding.Name + ": " + event.Reason
		seen[event.Regarding.Kind+" "+event.Reason] = true
		if !slices.Contains([]string{"Cluster", v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind}, event.Regarding.Kind) {
			t.Errorf("%s: nobody looks there", where)
		}
		if event.Note == "" || event.Action == "" {
			t.Errorf("%s: note %q, action %q", where, event.Note, event.Action)
		}
		kind, known := documented[event.Reason]
		switch {
		case known && kind != event.Type:
			t.Errorf("%s: is %s, the page says %s", where, event.Type, kind)
		case !known && !bytes.Contains(reasons, []byte("| `"+event.Reason+"` |")):
			t.Errorf("%s: is not documented", where)
		}
	}
	for _, want := range []string{
		"ClusterStack ClusterStackReleaseCreated", "ClusterStack Ready", "ClusterStackRelease Ready",
		"ClusterAddon RolloutStarted", "ClusterAddon RolloutFinished",
		"Cluster RolloutStarted", "Cluster RolloutFinished",
	} {
		if !seen[want] {
			t.Errorf("no event %s", want)
		}
	}
}

// told returns the events that the operator has recorded.
func (o *installed) told(t *testing.T) []eventsv1.Event {
	t.Helper()
	list := &eventsv1.EventList{}
	if err := o.List(t.Context(), list, client.InNamespace(demo.Namespace)); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool { return e.ReportingController != "cluster-stack-operator" })
}

// atRest looks at every object once more: nothing is logged, and no event recorded.
func (o *installed) atRest(t *testing.T) {
	runs := func() map[string]float64 {
		done := map[string]float64{}
		for _, series := range o.scrape(t)["cluster_stack_reconciliations_total"].GetMetric() {
			labels := map[string]string{}
			for _, label := range series.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if labels["outcome"] == "done" {
				done[labels["kind"]] += series.GetCounter().GetValue()
			}
		}
		return done
	}
	log := func() string {
		text, err := os.ReadFile(o.log)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	here := client.InNamespace(demo.Namespace)
	var last string
	// What the upgrade brought about may still come in once.
	await(t, "a round in which nothing is said", func(ctx context.Context) (bool, error) {
		logged, told, before := log(), len(o.told(t)), runs()
		for _, list := range []client.ObjectList{&v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}, &clusterv1.ClusterList{}} {
			if err := o.List(ctx, list, here); err != nil {
				return false, err
			}
			if err := touch(ctx, o.Client, list); err != nil {
				return false, err
			}
		}
		await(t, "every kind is looked at", func(context.Context) (bool, error) {
			now := runs()
			return now[v1alpha1.ClusterStackKind] > before[v1alpha1.ClusterStackKind] &&
				now[v1alpha1.ClusterStackReleaseKind] > before[v1alpha1.ClusterStackReleaseKind] &&
				now[v1alpha1.ClusterAddonKind] > before[v1alpha1.ClusterAddonKind], nil
		})
		last = strings.TrimPrefix(log(), logged)
		t.Logf("logged in this round: %s", last)
		return last == "" && len(o.told(t)) == told, nil
	})
}

// touch changes an annotation of objects that means nothing.
func touch(ctx context.Context, c client.Client, list client.ObjectList) error {
	return eachObject(list, func(obj client.Object) error {
		before := obj.DeepCopyObject().(client.Object)
		annotations := maps.Clone(obj.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["example.com/touched"] += "."
		obj.SetAnnotations(annotations)
		return c.Patch(ctx, obj, client.MergeFrom(before))
	})
}
