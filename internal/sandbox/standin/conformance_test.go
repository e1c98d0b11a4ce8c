// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// patience is for what must happen, on a machine that has much else to do.
const patience = time.Minute

func newStandin(t testing.TB) *rest.Config {
	t.Helper()
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Add("one", "v1.36.3")
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// session asks one server and writes down what is answered, without what differs from server to server.
type session struct {
	t      *testing.T
	client rest.Interface
	ns     string
	told   []string
	// last is the last object that was answered.
	last *unstructured.Unstructured
}

func newSession(t *testing.T, config *rest.Config) *session {
	t.Helper()
	s := &session{t: t, client: kubernetes.NewForConfigOrDie(config).RESTClient(), last: &unstructured.Unstructured{}}
	raw, err := s.client.Post().AbsPath("/api/v1/namespaces").
		Body([]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"generateName":"conformance-"}}`)).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ns := &unstructured.Unstructured{}
	if err := json.Unmarshal(raw, &ns.Object); err != nil {
		t.Fatal(err)
	}
	s.ns = ns.GetName()
	return s
}

var passing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

func (s *session) tell(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	text = strings.ReplaceAll(text, s.ns, "$NS")
	s.told = append(s.told, passing.ReplaceAllString(text, "*"))
}

// path fills in the namespace.
func (s *session) path(path string) string { return strings.ReplaceAll(path, "$NS", s.ns) }

// do sends a request: "PATCH /api/v1/namespaces/$NS/configmaps/a?fieldManager=one", with the type of its body.
func (s *session) do(request, contentType, body string, accept ...string) int {
	s.t.Helper()
	verb, path, _ := strings.Cut(request, " ")
	path, query, _ := strings.Cut(s.path(path), "?")
	r := s.client.Verb(verb).AbsPath(path).Body([]byte(s.path(body))).SetHeader("Content-Type", contentType).MaxRetries(0)
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			r = r.Param(name, value)
		}
	}
	if len(accept) > 0 {
		r = r.SetHeader("Accept", accept...)
	}
	var code int
	raw, err := r.Do(s.t.Context()).StatusCode(&code).Raw()
	if code == 0 {
		s.t.Fatalf("%s: %v", request, err)
	}
	before := s.last
	s.last = &unstructured.Unstructured{}
	if json.Unmarshal(raw, &s.last.Object) != nil {
		s.tell("%s: %d %s", request, code, raw)
		return code
	}
	if s.last.GetKind() == "Status" {
		status := metav1.Status{}
		if err := json.Unmarshal(raw, &status); err != nil {
			s.t.Fatal(err)
		}
		s.tell("%s: %d %s %s", request, code, status.Reason, status.Message)
		if status.Details != nil {
			for _, cause := range status.Details.Causes {
				s.tell("  %s %s: %s", cause.Type, cause.Field, cause.Message)
			}
		}
		return code
	}
	s.tell("%s: %d", request, code)
	if uid := s.last.GetUID(); uid != "" && uid == before.GetUID() {
		s.tell("  changed: %v", s.last.GetResourceVersion() != before.GetResourceVersion())
	}
	return code
}

const (
	applyYAML = "application/apply-patch+yaml"
	inJSON    = "application/json"
	metaOnly  = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	metaList  = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// show writes down parts of the last object.
func (s *session) show(paths ...string) {
	s.t.Helper()
	for _, path := range paths {
		value, _, err := unstructured.NestedFieldNoCopy(s.last.Object, strings.Split(path, ".")...)
		if err != nil {
			s.t.Fatal(err)
		}
		raw, err := json.Marshal(value)
		if err != nil {
			s.t.Fatal(err)
		}
		s.tell("  %s: %s", path, raw)
	}
}

// managers writes down who manages what of the last object.
func (s *session) managers() {
	entries := s.last.GetManagedFields()
	slices.SortFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		return strings.Compare(a.Manager+string(a.Operation)+a.Subresource, b.Manager+string(b.Operation)+b.Subresource)
	})
	for _, e := range entries {
		s.tell("  %s %s %s %s %s", e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsV1.GetRawString())
	}
}

func (s *session) apply(query, kindPath, object string) int {
	s.t.Helper()
	code := s.do("PATCH "+kindPath+"?"+query, applyYAML, object)
	if s.last.GetKind() != "Status" {
		s.managers()
	}
	return code
}

const configMaps = "/api/v1/namespaces/$NS/configmaps"

func cm(data string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":` + data + `}`
}

const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"app":"d"}},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"d"}},
  "template":{"metadata":{"labels":{"app":"d"}},"spec":{"containers":[{"name":"one","image":"one:v1","env":[{"name":"A","value":"1"}],"ports":[{"containerPort":80}]}]}}}}`

const widgets = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.$NS.example.com"},
  "spec":{"group":"$NS.example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},
  "versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","properties":{
    "spec":{"type":"object","properties":{"size":{"type":"integer"},
      "parts":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"count":{"type":"integer"}}}},
      "tags":{"type":"array","items":{"type":"string"}}}},
    "status":{"type":"object","properties":{"ready":{"type":"boolean"}}}}}}}]}}`

// TestConformance has the same conversations with a real API server and with a stand-in, and compares what is said.
func TestConformance(t *testing.T) {
	for name, talk := range map[string]func(*session){
		"ApplyCreatesChangesAndLeavesAlone": func(s *session) {
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"2"}`))
			s.show("data", "metadata.name", "metadata.namespace", "metadata.generation")
			s.do("GET "+configMaps+"/a", inJSON, "")
			s.show("data", "kind", "apiVersion")
		},
		"ApplyMeetsAnotherManager": func(s *session) {
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.apply("fieldManager=two", configMaps+"/a", cm(`{"x":"1","z":"1"}`))
			s.apply("fieldManager=two", configMaps+"/a", cm(`{"x":"2","z":"1"}`))
			s.apply("fieldManager=two&force=true", configMaps+"/a", cm(`{"x":"2","z":"1"}`))
			s.show("data")
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"y":"1"}`))
			s.show("data")
			s.apply("fieldManager=two", configMaps+"/a", cm(`{}`))
			s.show("data")
		},
		"ApplyMeetsWhoUpdates": func(s *session) {
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.do("PATCH "+configMaps+"/a?fieldManager=editor", "application/merge-patch+json", `{"data":{"x":"9"},"metadata":{"labels":{"l":"1"}}}`)
			s.managers()
			s.apply("fieldManager=one", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.apply("fieldManager=one&force=true", configMaps+"/a", cm(`{"x":"1","y":"1"}`))
			s.do("PATCH "+configMaps+"/a?fieldManager=editor", "application/merge-patch+json", `{"data":{"x":"1"}}`)
		},
		"ApplyRefuses": func(s *session) {
			s.apply("force=true", configMaps+"/a", cm(`{}`))
			s.apply("fieldManager=one", "/api/v1/namespaces/absent-$NS/configmaps/a", cm(`{}`))
			s.apply("fieldManager=one", configMaps+"/a", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[{"manager":"m"}]}}`)
			s.apply("fieldManager=one", configMaps+"/a", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"0b7b9bb4-0000-0000-0000-000000000000"}}`)
			s.apply("fieldManager=one&dryRun=All", configMaps+"/a", cm(`{"x":"1"}`))
			s.do("GET "+configMaps+"/a", inJSON, "")
			s.do("GET /api/v1/namespaces/$NS/absent", inJSON, "")
		},
		"ListsAreMergedByTheirKeys": func(s *session) {
			const path = "/apis/apps/v1/namespaces/$NS/deployments/d"
			s.apply("fieldManager=one", path, deployment)
			s.apply("fieldManager=one", path, deployment)
			s.apply("fieldManager=two", path, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"two","image":"two:v1"},{"name":"one","env":[{"name":"B","value":"2"}]}]}}}}`)
			s.show("metadata.generation", "spec.replicas")
			s.apply("fieldManager=two", path, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"}}`)
			s.show("metadata.generation")
			s.do("PATCH "+path+"?fieldManager=three", "application/strategic-merge-patch+json", `{"spec":{"template":{"spec":{"containers":[{"name":"one","image":"one:v2"}]}}}}`)
			s.managers()
			s.apply("fieldManager=one", path, deployment)

			const service = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"name":"udp","port":53,"protocol":"UDP"},{"name":"tcp","port":53}]}}`
			s.apply("fieldManager=one", "/api/v1/namespaces/$NS/services/s", service)
			s.apply("fieldManager=one", "/api/v1/namespaces/$NS/services/s", service)
		},
		"StatusIsWrittenByItself": func(s *session) {
			const path = "/apis/apps/v1/namespaces/$NS/deployments/d"
			s.apply("fieldManager=one", path, deployment)
			s.do("PATCH "+path+"/status?fieldManager=controller", "application/merge-patch+json", `{"spec":{"replicas":7},"status":{"observedGeneration":1,"replicas":2}}`)
			s.show("status.replicas", "spec.replicas", "metadata.generation")
			s.managers()
			s.do("PATCH "+path+"?fieldManager=person", "application/merge-patch+json", `{"spec":{"replicas":3},"status":{"replicas":9}}`)
			s.show("status.replicas", "spec.replicas", "metadata.generation")
			s.managers()
			s.apply("fieldManager=one", path, deployment)
			s.do("GET /api/v1/namespaces/$NS/configmaps/a/status", inJSON, "")
		},
		"PatchesOfTheOlderKind": func(s *session) {
			s.do("POST "+configMaps+"?fieldManager=one", inJSON, cm(`{"x":"1"}`))
			s.managers()
			s.do("PATCH "+configMaps+"/a?fieldManager=two", "application/json-patch+json", `[{"op":"test","path":"/data/x","value":"1"},{"op":"add","path":"/data/y","value":"2"}]`)
			s.managers()
			if code := s.do("PATCH "+configMaps+"/a", "application/json-patch+json", `[{"op":"test","path":"/data/x","value":"7"},{"op":"remove","path":"/data/y"}]`); code != http.StatusUnprocessableEntity {
				s.tell("  a test that fails gives %d", code)
			}
			s.do("PATCH "+configMaps+"/a?fieldManager=three", "application/strategic-merge-patch+json", `{"data":{"y":null}}`)
			s.show("data")
			s.managers()
			// Moving an entry of another manager to oneself, as a take-over does.
			s.do("GET "+configMaps+"/a", inJSON, "")
			s.do("PATCH "+configMaps+"/a", "application/json-patch+json", `[{"op":"test","path":"/metadata/resourceVersion","value":"`+s.last.GetResourceVersion()+`"},
				{"op":"replace","path":"/metadata/managedFields","value":[{"manager":"taker","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:x":{}}}}]}]`)
			s.managers()
			s.do("PATCH "+configMaps+"/absent", "application/merge-patch+json", `{}`)
		},
		"CreateAndUpdate": func(s *session) {
			s.do("POST "+configMaps, inJSON, cm(`{"x":"1"}`))
			s.do("POST "+configMaps, inJSON, cm(`{"x":"1"}`))
			s.do("POST /api/v1/namespaces/absent-$NS/configmaps", inJSON, cm(`{}`))
			s.do("PUT "+configMaps+"/a?fieldManager=one", inJSON, cm(`{"x":"2"}`))
			s.show("data")
			s.managers()
			s.do("PUT "+configMaps+"/a", inJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"},"data":{"x":"3"}}`)
			s.do("PUT "+configMaps+"/a?fieldManager=one", inJSON, cm(`{"x":"2"}`))
			s.do("PUT "+configMaps+"/b", inJSON, cm(`{"x":"2"}`))
		},
		"SecretsArePlainTextOnlyOnce": func(s *session) {
			const path = "/api/v1/namespaces/$NS/secrets/s"
			const secret = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"type":"Opaque","stringData":{"password":"hunter2"}}`
			s.do("PATCH "+path+"?fieldManager=one", applyYAML, secret)
			s.show("data", "stringData")
			s.do("PATCH "+path+"?fieldManager=one", applyYAML, secret)
		},
		"Delete": func(s *session) {
			s.do("POST "+configMaps, inJSON, cm(`{"x":"1"}`))
			s.do("DELETE "+configMaps+"/a", inJSON, `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"0b7b9bb4-0000-0000-0000-000000000000"}}`)
			s.do("DELETE "+configMaps+"/a", inJSON, `{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}`)
			s.do("DELETE "+configMaps+"/a", inJSON, "")
			s.do("POST "+configMaps, inJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"f","finalizers":["example.com/wait"]}}`)
			s.do("DELETE "+configMaps+"/f", inJSON, "")
			s.show("metadata.deletionTimestamp", "metadata.finalizers")
			s.do("GET "+configMaps+"/f", inJSON, "")
			s.do("PATCH "+configMaps+"/f", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`)
			s.do("GET "+configMaps+"/f", inJSON, "")
		},
		"Lists": func(s *session) {
			for _, name := range []string{"c", "a", "b", "d"} {
				s.do("POST "+configMaps, inJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`+name+`","labels":{"first":"`+fmt.Sprint(name < "c")+`"}}}`)
			}
			names := func() {
				items, _, _ := unstructured.NestedSlice(s.last.Object, "items")
				for _, item := range items {
					object := &unstructured.Unstructured{Object: item.(map[string]any)}
					s.tell("  %s %v", object.GetName(), object.GetLabels())
				}
				s.show("kind", "apiVersion")
			}
			s.do("GET "+configMaps+"?labelSelector=first=true&resourceVersion=0", inJSON, "", metaList)
			names()
			s.do("GET "+configMaps+"?fieldSelector=metadata.name=c", inJSON, "")
			names()
			s.do("GET "+configMaps+"?limit=3", inJSON, "")
			names()
			s.show("metadata.remainingItemCount")
			s.do("GET "+configMaps+"?limit=3&continue="+s.last.GetContinue(), inJSON, "")
			s.told[len(s.told)-1] = "the next page"
			names()
			s.do("GET "+configMaps+"/a", inJSON, "", metaOnly)
			s.show("kind", "apiVersion", "data", "metadata.labels")
		},
		"KindsOfDefinitions": func(s *session) {
			const path = "/apis/$NS.example.com/v1/namespaces/$NS/widgets/w"
			const widget = `{"apiVersion":"$NS.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"size":3,"parts":[{"name":"p","count":1}],"tags":["a"]}}`
			s.do("PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.$NS.example.com?fieldManager=one", applyYAML, widgets)
			created := s.last
			s.awaitEstablished(created)
			// The real one serves a kind a moment after it has said so.
			err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) { return s.served(path), nil })
			if err != nil {
				s.t.Fatalf("the kind is never served: %v", err)
			}
			s.apply("fieldManager=one", path, widget)
			s.show("spec", "metadata.generation", "status")
			s.apply("fieldManager=one", path, widget)
			s.apply("fieldManager=two", path, `{"apiVersion":"$NS.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"parts":[{"name":"q","count":2}]}}`)
			s.show("spec", "metadata.generation")
			s.apply("fieldManager=two", path, `{"apiVersion":"$NS.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"tags":["b"]}}`)
			s.do("PATCH "+path+"/status?fieldManager=controller", "application/merge-patch+json", `{"status":{"ready":true,"unknown":1},"spec":{"size":9}}`)
			s.show("status", "spec.size", "metadata.generation")
			s.managers()
			s.do("PUT "+path+"?fieldManager=editor", inJSON, `{"apiVersion":"$NS.example.com/v1","kind":"Widget","metadata":{"name":"w","resourceVersion":"`+s.last.GetResourceVersion()+`"},"spec":{"size":4,"colour":"red"}}`)
			s.show("spec", "status", "metadata.generation")
			s.do("PATCH "+path, "application/strategic-merge-patch+json", `{}`)
		},
		"NothingIsThere": func(s *session) {
			s.do("GET /apis/absent.example.com/v1/widgets", inJSON, "")
			s.do("GET /apis/apps/v1/namespaces/$NS/deployments/absent", inJSON, "")
			s.do("GET /api/v1/namespaces/absent-$NS/configmaps", inJSON, "")
			s.do("DELETE "+configMaps+"/absent", inJSON, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			real, stand := newSession(t, sandboxtest.APIServer(t)), newSession(t, newStandin(t))
			talk(real)
			talk(stand)
			if diff := cmp.Diff(real.told, stand.told); diff != "" {
				t.Errorf("a stand-in answers differently (-real +stand-in):\n%s", diff)
			}
		})
	}
}

// served says whether objects of a kind can be asked for.
func (s *session) served(path string) bool {
	err := s.client.Get().AbsPath(s.path(path)).Do(s.t.Context()).Error()
	return err != nil && strings.Contains(err.Error(), `"w" not found`)
}

// awaitEstablished follows a definition from its creation on.
func (s *session) awaitEstablished(crd *unstructured.Unstructured) {
	s.t.Helper()
	events := s.watch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?fieldSelector=metadata.name="+crd.GetName()+"&resourceVersion="+crd.GetResourceVersion(), inJSON)
	for {
		event := events()
		conditions, _, _ := unstructured.NestedSlice(event.object, "status", "conditions")
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Established" && c["status"] == "True" {
				s.tell("the definition is established")
				return
			}
		}
	}
}

type seen struct {
	kind   string
	object map[string]any
}

func (e seen) String() string {
	o := &unstructured.Unstructured{Object: e.object}
	return fmt.Sprintf("%s %s %s %v %v", e.kind, o.GetKind(), o.GetName(), o.GetLabels(), o.GetAnnotations())
}

// watch returns a function that gives the next event.
func (s *session) watch(path, accept string) func() seen {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	path, query, _ := strings.Cut(s.path(path), "?")
	r := s.client.Get().AbsPath(path).Param("watch", "true").SetHeader("Accept", accept)
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			r = r.Param(name, value)
		}
	}
	stream, err := r.Stream(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { stream.Close() })
	reader := bufio.NewReader(stream)
	return func() seen {
		s.t.Helper()
		line, err := reader.ReadBytes('\n')
		if err != nil {
			s.t.Fatalf("watch %s: %v", path, err)
		}
		var e struct {
			Type   string
			Object map[string]any
		}
		if err := json.NewDecoder(bytes.NewReader(line)).Decode(&e); err != nil {
			s.t.Fatal(err)
		}
		return seen{e.Type, e.Object}
	}
}

func TestWatchesConform(t *testing.T) {
	object := func(name, label string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `","labels":{"l":"` + label + `"}}}`
	}
	for name, talk := range map[string]func(*session){
		"FromNowOn": func(s *session) {
			s.do("POST "+configMaps, inJSON, object("a", "1"))
			next := s.watch(configMaps, inJSON)
			s.tell("%s", next())
			s.do("POST "+configMaps, inJSON, object("b", "1"))
			s.tell("%s", next())
			s.do("PUT "+configMaps+"/a", inJSON, object("a", "2"))
			s.tell("%s", next())
			s.do("DELETE "+configMaps+"/b", inJSON, "")
			s.tell("%s", next())
		},
		"FromAVersionOn": func(s *session) {
			s.do("POST "+configMaps, inJSON, object("a", "1"))
			s.do("POST "+configMaps, inJSON, object("b", "1"))
			version := s.last.GetResourceVersion()
			s.do("PUT "+configMaps+"/b", inJSON, object("b", "2"))
			s.do("DELETE "+configMaps+"/a", inJSON, "")
			next := s.watch(configMaps+"?resourceVersion="+version, inJSON)
			s.tell("%s", next())
			s.tell("%s", next())
		},
		"OfASelection": func(s *session) {
			next := s.watch(configMaps+"?labelSelector=l=1", inJSON)
			s.do("POST "+configMaps, inJSON, object("a", "1"))
			s.do("POST "+configMaps, inJSON, object("b", "2"))
			s.do("PUT "+configMaps+"/b", inJSON, object("b", "1"))
			s.do("PUT "+configMaps+"/a", inJSON, object("a", "2"))
			for range 3 {
				s.tell("%s", next())
			}
		},
		"OfMetadata": func(s *session) {
			next := s.watch(configMaps, metaOnly)
			s.do("POST "+configMaps, inJSON, object("a", "1"))
			e := next()
			s.tell("%s, data: %v", e, e.object["data"])
		},
		"WithAllThatThereIsFirst": func(s *session) {
			s.do("POST "+configMaps, inJSON, object("a", "1"))
			next := s.watch(configMaps+"?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", inJSON)
			s.tell("%s", next())
			s.tell("%s", next())
			s.do("POST "+configMaps, inJSON, object("b", "1"))
			s.tell("%s", next())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			real, stand := newSession(t, sandboxtest.APIServer(t)), newSession(t, newStandin(t))
			// A namespace of the real one gets a ConfigMap by itself only with a controller-manager; here is none.
			talk(real)
			talk(stand)
			if diff := cmp.Diff(real.told, stand.told); diff != "" {
				t.Errorf("a stand-in answers differently (-real +stand-in):\n%s", diff)
			}
		})
	}
}
