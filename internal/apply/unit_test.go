// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

// Asking for the kinds group by group takes no context, so its client is what keeps a cluster that answers half
// the questions from holding a worker for ever. A watch may not be cut in that way.
func TestQuestionsAreBounded(t *testing.T) {
	a, err := New(&rest.Config{Host: "127.0.0.1:1", Timeout: time.Hour}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		client rest.Interface
		want   time.Duration
	}{
		"Kinds":   {a.mapper.client, requestTimeout},
		"Objects": {a.client, 0},
	} {
		client, ok := test.client.(*rest.RESTClient)
		if !ok || client.Client.Timeout != test.want {
			t.Errorf("%s: want a timeout of %s: %+v", name, test.want, test.client)
		}
	}
}

// Older servers, and proxies in front of newer ones, know no document that has everything.
func TestAsksGroupByGroup(t *testing.T) {
	documents := map[string]string{
		"/api":          `{"kind":"APIVersions","versions":["v1"]}`,
		"/apis":         `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"apps","versions":[{"groupVersion":"apps/v1","version":"v1"}],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}},{"name":"broken.io","versions":[{"groupVersion":"broken.io/v1","version":"v1"}],"preferredVersion":{"groupVersion":"broken.io/v1","version":"v1"}}]}`,
		"/api/v1":       `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"configmaps","namespaced":true,"kind":"ConfigMap","verbs":["get"]}]}`,
		"/apis/apps/v1": `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":[{"name":"deployments","namespaced":true,"kind":"Deployment","verbs":["get"]},{"name":"deployments/scale","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document, known := documents[r.URL.Path]
		if !known {
			http.Error(w, "nobody answers", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, document)
	}))
	t.Cleanup(server.Close)
	a, err := New(&rest.Config{Host: server.URL}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	known, _, err := a.mapper.kinds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[schema.GroupKind]string{{Kind: "ConfigMap"}: "configmaps", {Group: "apps", Kind: "Deployment"}: "deployments"} {
		if r, ok := known.lookup(kind, "v1"); !ok || r.Resource != want || !r.namespaced || !r.can("get") {
			t.Errorf("%s is served as %+v", kind, r)
		}
	}
	if !known.failed["broken.io"] || len(known.served) != 2 {
		t.Errorf("failed groups are %v, want broken.io; served are %v", known.failed, known.served)
	}
	// What a group serves that does not answer would be missing in a render, and then deleted.
	if versions, err := a.APIVersions(t.Context()); err == nil || !strings.Contains(err.Error(), "the API groups broken.io do not answer") {
		t.Errorf("served are %v, error %v", versions, err)
	}
	documents["/apis/broken.io/v1"] = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"broken.io/v1","resources":[{"name":"widgets","namespaced":true,"kind":"Widget","verbs":["get"]}]}`
	versions, err := a.APIVersions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"apps/v1", "apps/v1/Deployment", "broken.io/v1", "broken.io/v1/Widget", "v1", "v1/ConfigMap"}, versions); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

// A cluster in somebody else's hands cannot have us ask without end, nor keep what it says without measure.
func TestWhatAClusterSaysThatItServesIsBounded(t *testing.T) {
	groups := func(n int) string {
		var list strings.Builder
		for i := range n {
			fmt.Fprintf(&list, `{"name":"g%d","versions":[{"groupVersion":"g%[1]d/v1","version":"v1"}]},`, i)
		}
		return `{"kind":"APIGroupList","groups":[` + strings.TrimSuffix(list.String(), ",") + `]}`
	}
	aggregated := "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for name, test := range map[string]struct {
		contentType, apis, group string
		most                     int64
	}{
		"ManyGroups":    {"application/json", groups(maxVersions + 1), `{"kind":"APIResourceList"}`, 4},
		"LargeGroups":   {"application/json", groups(maxVersions), `{"kind":"APIResourceList","x":"` + strings.Repeat("x", 1<<20) + `"}`, 40},
		"LargeDocument": {aggregated, `{"kind":"APIGroupDiscoveryList","items":[],"x":"` + strings.Repeat("x", maxDiscovery) + `"}`, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.Header().Set("Content-Type", test.contentType)
				text := test.group
				switch r.URL.Path {
				case "/api":
					text = `{"kind":"APIVersions"}`
				case "/apis":
					text = test.apis
				}
				_, _ = io.WriteString(w, text)
			}))
			t.Cleanup(server.Close)
			a, err := New(&rest.Config{Host: server.URL, QPS: -1}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.mapper.kinds(t.Context()); err == nil || !strings.Contains(err.Error(), "it says that it serves more than") {
				t.Errorf("got %v", err)
			}
			if n := asked.Load(); n > test.most {
				t.Errorf("it was asked %d times, want %d at most", n, test.most)
			}
		})
	}
}

// What a cluster says brings a defect to light: the others, and the process, go on.
func TestPanicOfADiscoveryIsAnError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api":
			_, _ = io.WriteString(w, `{"kind":"APIVersions","versions":["v1","v2"]}`)
		case "/apis":
			_, _ = io.WriteString(w, `{"kind":"APIGroupList","groups":[]}`)
		default:
			_, _ = io.WriteString(w, `{"kind":"APIResourceList"}`)
		}
	}))
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return faulty{next} })
	a, err := New(config, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var defect *panicked.Error
	if _, _, err := a.mapper.kinds(t.Context()); !errors.As(err, &defect) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// faulty panics over what one version of the API is asked.
type faulty struct{ http.RoundTripper }

func (f faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/api/v2" {
		panic("hunter2")
	}
	return f.RoundTripper.RoundTrip(r)
}

// A server that knows only the older form and stops answering holds nobody for longer than he wants to wait.
func TestDiscoveryEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api":
			_, _ = io.WriteString(w, `{"kind":"APIVersions","versions":["v1","v2"]}`)
		case "/apis":
			_, _ = io.WriteString(w, `{"kind":"APIGroupList","groups":[]}`)
		default:
			cancel()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	a, err := New(&rest.Config{Host: server.URL}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.mapper.kinds(ctx); err == nil {
		t.Error("what could not be asked was taken for not served")
	}
}

func TestRuleHasNoValues(t *testing.T) {
	for name, test := range map[string]struct{ give, want string }{
		"Quoted":             {`Invalid value: "geheim: x": must be no more than 63 characters`, "Invalid value: must be no more than 63 characters"},
		"QuotedWithEscapes":  {`Invalid value: "ge\"heim\n: x": must be lower case`, "Invalid value: must be lower case"},
		"Number":             {`Invalid value: 70000: must be between 1 and 65535, inclusive`, "Invalid value: must be between 1 and 65535, inclusive"},
		"JSON":               {`Invalid value: {"matchLabels":{"a":"geheim: field"}}: field is immutable`, "Invalid value: field is immutable"},
		"GoSyntax":           {`Invalid value: core.Secret{Data:"geheim"}: field is immutable`, "Invalid value: field is immutable"},
		"GoSyntaxAndNoEnd":   {`Invalid value: core.Secret{Data: "geheim"}`, "Invalid value"},
		"Null":               {`Invalid value: null: must not be null`, "Invalid value: must not be null"},
		"Unsupported":        {`Unsupported value: "geheim": supported values: "ClusterIP", "NodePort"`, `Unsupported value: supported values: "ClusterIP", "NodePort"`},
		"Required":           {`Required value: name is required`, "Required value: name is required"},
		"Forbidden":          {`Forbidden: updates to statefulset spec are forbidden`, "Forbidden: updates to statefulset spec are forbidden"},
		"Duplicate":          {`Duplicate value: "geheim"`, "Duplicate value"},
		"DuplicateStructure": {`Duplicate value: {"name":"geheim"}`, "Duplicate value"},
		"Text":               {"something else", "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rule(test.give); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func FuzzRuleHasNoValues(f *testing.F) {
	for _, seed := range []string{"a", `a": b`, `{"x": "y"}: z`, "a\nb", "\\", "ä: ö"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		value = "geheim" + value
		quoted, err := json.Marshal(map[string]string{"k": value})
		if err != nil {
			t.Fatal(err)
		}
		for _, printed := range []string{fmt.Sprintf("%q", value), string(quoted)} {
			got := rule("Invalid value: " + printed + ": field is immutable")
			if got != "Invalid value: field is immutable" {
				t.Errorf("%s gives %q", printed, got)
			}
		}
	})
}

func TestRequestErrorsAreStableAndTellNothingSecret(t *testing.T) {
	timeout := &url.Error{Op: "Patch", URL: "https://127.0.0.1:6443/x", Err: context.DeadlineExceeded}
	reset := &url.Error{Op: "Patch", URL: "https://127.0.0.1:6443/x", Err: &net.OpError{Op: "read", Net: "tcp",
		Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 51234}, Err: os.NewSyscallError("read", syscall.ECONNRESET)}}
	typed := apierrors.NewBadRequest(`failed to create typed patch object (ns/a; /v1, Kind=Secret): .data.x: expected string, got &value.valueUnstructured{Value:"geheim"}`)
	for name, test := range map[string]struct {
		give   error
		secret bool
		want   string
	}{
		"Timeout":           {timeout, false, "no answer in time from the API server"},
		"Reset":             {reset, false, "API server: connection reset by peer"},
		"WrongType":         {typed, false, "it does not have the form of its kind: .data.x: expected string …; the chart must put it in quotes"},
		"WrongTypeInSecret": {typed, true, "BadRequest; the chart must put it in quotes"},
		"DeniedSecret":      {apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "a", errors.New(`admission webhook "guard.example.com" denied the request: not geheim`)), true, `admission webhook "guard.example.com" denied the request`},
		"ManyLines":         {apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "a", errors.New("no\n\tway")), false, `pods "a" is forbidden: no way`},
		"Long":              {apierrors.NewBadRequest(strings.Repeat("x", 5000)), false, strings.Repeat("x", maxText) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := requestError(t.Context(), test.give, test.secret).Error(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestInventoryEncoding(t *testing.T) {
	inv := NewInventory()
	inv.Put(Entry{ID: ID{Group: "apps", Kind: "Deployment", Namespace: "kube-system", Name: "metrics-server"}, Version: "v1",
		UID: "u", Origin: Created, Set: "metrics-server", Hash: "h", Fields: "f"})
	inv.Put(Entry{ID: ID{Kind: "Namespace", Name: "kube-system"}, Version: "v1", Origin: Shared, Keep: true})
	inv.sets["metrics-server"] = progress{Pre: "a", Post: "b"}
	const want = `{"version":1,"objects":[` +
		`{"kind":"Namespace","name":"kube-system","version":"v1","origin":"Shared","keep":true},` +
		`{"group":"apps","kind":"Deployment","namespace":"kube-system","name":"metrics-server","version":"v1","uid":"u","origin":"Created","set":"metrics-server","hash":"h","fields":"f"}],` +
		`"sets":{"metrics-server":{"pre":"a","post":"b"}}}`
	data, err := inv.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Installations hold this: a change of it needs another version, and a reader for both.
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("encoding (-want +got):\n%s", diff)
	}
	back, err := DecodeInventory(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(inv, back, cmp.AllowUnexported(Inventory{}, progress{})); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if objects, shared := inv.Counts(); objects != 2 || shared != 1 {
		t.Errorf("%d objects, %d shared", objects, shared)
	}

	for name, test := range map[string]string{
		"NotJSON":       "x",
		"AnotherFormat": `{"version":2}`,
		"UnknownOrigin": `{"version":1,"objects":[{"kind":"A","name":"b","origin":"Stolen"}]}`,
		"NoName":        `{"version":1,"objects":[{"kind":"A","origin":"Created"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeInventory([]byte(test)); err == nil {
				t.Error("no error: what is not understood must not be pruned by")
			}
		})
	}
	if empty, err := DecodeInventory(nil); err != nil || empty.Len() != 0 {
		t.Errorf("no bytes: %v, %v", empty, err)
	}
}

func TestFieldsHashDoesNotDependOnTheOrderOfWriting(t *testing.T) {
	entry := func(fields string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields)}}
	}
	a := fieldsHash(entry(`{"f:data":{"f:a":{},"f:b":{}},"f:metadata":{"f:labels":{"f:x":{}}}}`), "m")
	b := fieldsHash(entry(`{"f:metadata":{"f:labels":{"f:x":{}}},"f:data":{"f:b":{},"f:a":{}}}`), "m")
	c := fieldsHash(entry(`{"f:data":{"f:a":{}}}`), "m")
	if a != b || a == c || a == "" || fieldsHash(entry("{}"), "other") != "" {
		t.Errorf("hashes %q, %q, %q", a, b, c)
	}
}

func TestDivideFollowsListsAsTheAPIServerDoes(t *testing.T) {
	object := map[string]any{
		"spec": map[string]any{
			"ports": []any{
				map[string]any{"port": int64(53)},
				map[string]any{"port": int64(53), "protocol": "UDP"},
			},
			"set":    []any{"a"},
			"atomic": []any{"x", "y"},
		},
	}
	for name, test := range map[string]struct {
		path string
		want bool
	}{
		"Field":               {`{"f:spec":{"f:atomic":{}}}`, true},
		"OtherField":          {`{"f:spec":{"f:none":{}}}`, false},
		"KeyWithItsDefault":   {`{"f:spec":{"f:ports":{"k:{\"port\":53,\"protocol\":\"TCP\"}":{"f:port":{}}}}}`, true},
		"KeyWithoutADefault":  {`{"f:spec":{"f:ports":{"k:{\"port\":53,\"protocol\":\"UDP\"}":{"f:protocol":{}}}}}`, true},
		"FieldOfTheRightOne":  {`{"f:spec":{"f:ports":{"k:{\"port\":53,\"protocol\":\"TCP\"}":{"f:protocol":{}}}}}`, false},
		"OtherKey":            {`{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:port":{}}}}}`, false},
		"KeyOfNothingItHas":   {`{"f:spec":{"f:ports":{"k:{\"name\":\"x\"}":{"f:port":{}}}}}`, false},
		"ElementOfASet":       {`{"f:spec":{"f:set":{"v:\"a\"":{}}}}`, true},
		"OtherElementOfASet":  {`{"f:spec":{"f:set":{"v:\"b\"":{}}}}`, false},
		"Index":               {`{"f:spec":{"f:atomic":{"i:1":{}}}}`, true},
		"IndexBeyondTheEnd":   {`{"f:spec":{"f:atomic":{"i:2":{}}}}`, false},
		"ThroughAnotherShape": {`{"f:spec":{"f:set":{"f:x":{}}}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			set := &fieldpath.Set{}
			if err := set.FromJSON(strings.NewReader(test.path)); err != nil {
				t.Fatal(err)
			}
			has, lacks := divide(set, object)
			if got := has.Size() > 0; got != test.want || has.Size()+lacks.Size() != set.Size() {
				t.Errorf("has %v, lacks %v", has, lacks)
			}
		})
	}
}

func TestWaves(t *testing.T) {
	for name, test := range map[string]struct {
		give schema.GroupKind
		want wave
	}{
		"Namespace":      {schema.GroupKind{Kind: "Namespace"}, foundations},
		"ServiceAccount": {schema.GroupKind{Kind: "ServiceAccount"}, accounts},
		"Secret":         {schema.GroupKind{Kind: "Secret"}, configuration},
		"SameKindElsewhere": {
			schema.GroupKind{Group: "example.com", Kind: "Secret"}, workloads},
		"Deployment": {schema.GroupKind{Group: "apps", Kind: "Deployment"}, workloads},
		"Unknown":    {schema.GroupKind{Group: "cilium.io", Kind: "CiliumNetworkPolicy"}, workloads},
		"APIService": {schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}, interceptors},
	} {
		t.Run(name, func(t *testing.T) {
			if got := waveOf(test.give); got != test.want {
				t.Errorf("wave %d, want %d", got, test.want)
			}
		})
	}
}
