// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"
)

// maxBody is the largest request, as of an API server.
const maxBody = 3 << 20

var (
	errUnauthorized = apierrors.NewUnauthorized("this certificate is not of this cluster")
	errNotHere      = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
)

var requestInfo = request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// unknownPatch is the answer to a patch in a form that a kind does not take.
func (k *kind) unknownPatch() error {
	accepted := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}
	if k.strategic != nil {
		accepted = slices.Insert(accepted, 2, string(types.StrategicMergePatchType))
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + strings.Join(accepted, ", "),
	}}
}

func encodeBytes(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func writeError(w http.ResponseWriter, err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	writeJSON(w, int(status.Code), status)
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeRaw(w, code, "application/json", raw)
}

func writeRaw(w http.ResponseWriter, code int, mediaType string, raw []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(code)
	_, _ = w.Write(raw) // a client that has left misses nothing
}

// serve answers a request for this cluster.
func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	info, err := requestInfo.NewRequestInfo(r)
	if err != nil {
		writeError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	c.count(info)
	if !info.IsResourceRequest {
		c.describe(w, r)
		return
	}
	gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	c.mu.Lock()
	kind := c.kind(gv.WithResource(info.Resource))
	served := kind != nil || c.docs.serve(gv)
	c.mu.Unlock()
	if !served {
		http.NotFound(w, r)
		return
	}
	if kind == nil || info.Subresource != "" && (info.Subresource != "status" || !kind.hasStatus) || kind.namespaced && info.Namespace == "" && info.Name != "" {
		writeError(w, errNotHere)
		return
	}
	namespace := info.Namespace
	if !kind.namespaced {
		namespace = "" // that of a namespace is its own name
	}
	if err := c.dispatch(w, r, kind, namespace, info); err != nil {
		writeError(w, err)
	}
}

func (c *Cluster) dispatch(w http.ResponseWriter, r *http.Request, k *kind, namespace string, info *request.RequestInfo) error {
	query := r.URL.Query()
	metadataOnly, err := acceptsMetadata(r)
	if err != nil {
		return err
	}
	asked := &selection{kind: k, namespace: namespace}
	if asked.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if asked.fields, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	change := &call{
		kind: k, namespace: namespace, name: info.Name, status: info.Subresource == "status",
		manager: query.Get("fieldManager"), force: query.Get("force") == "true", dryRun: query.Get("dryRun") != "",
	}
	if change.manager == "" && r.Header.Get("Content-Type") != string(types.ApplyYAMLPatchType) {
		change.manager, _, _ = strings.Cut(r.UserAgent(), "/")
	}
	switch info.Verb {
	case "watch":
		return c.watch(w, r, asked, metadataOnly)
	case "list":
		return c.writeList(w, query, asked, metadataOnly)
	case "get":
		return c.get(w, change, metadataOnly)
	case "create", "update":
		object, err := c.readObject(r, k)
		if err != nil {
			return err
		}
		if info.Verb == "create" {
			return answer(w, http.StatusCreated, k, metadataOnly)(c.create(change, object))
		}
		if err := change.checkName(object); err != nil {
			return err
		}
		return answer(w, http.StatusOK, k, metadataOnly)(c.modify(change, func(*unstructured.Unstructured) (*unstructured.Unstructured, error) { return object, nil }))
	case "patch":
		return c.patch(w, r, change, metadataOnly)
	case "delete":
		options, err := c.deleteOptions(r)
		if err != nil {
			return err
		}
		change.dryRun = change.dryRun || len(options.DryRun) > 0
		object, gone, err := c.delete(change, options.Preconditions)
		if err != nil || !gone {
			return answer(w, http.StatusOK, k, metadataOnly)(object, err)
		}
		writeJSON(w, http.StatusOK, metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess,
			Details: &metav1.StatusDetails{Name: change.name, Group: k.Group, Kind: k.plural, UID: object.GetUID()},
		})
	case "deletecollection":
		found, version := c.list(asked)
		for _, item := range found {
			one := *change
			one.namespace, one.name, _ = strings.Cut(item.key, "/")
			if _, _, err := c.delete(&one, nil); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		writeRaw(w, http.StatusOK, "application/json", listJSON(asked, found, metadataOnly, metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}))
	default:
		return apierrors.NewMethodNotSupported(k.groupResource(), info.Verb)
	}
	return nil
}

// answer writes what came of a request.
func answer(w http.ResponseWriter, code int, k *kind, metadataOnly bool) func(*unstructured.Unstructured, error) error {
	return func(object *unstructured.Unstructured, err error) error {
		if err != nil {
			return err
		}
		raw, err := json.Marshal(object.Object)
		if err != nil {
			return err
		}
		writeRaw(w, code, "application/json", present(raw, k, metadataOnly))
		return nil
	}
}

// acceptsMetadata says whether a client wants only the metadata of objects. It is given JSON in any case; clients that
// prefer protobuf take that too.
func acceptsMetadata(r *http.Request) (bool, error) {
	header := r.Header.Get("Accept")
	if header == "" {
		return false, nil
	}
	for clause := range strings.SplitSeq(header, ",") {
		mediaType, params, err := mime.ParseMediaType(clause)
		if err != nil {
			continue
		}
		switch mediaType {
		case "application/json", "application/*", "*/*":
		default:
			continue
		}
		switch params["as"] {
		case "":
			return false, nil
		case "PartialObjectMetadata", "PartialObjectMetadataList":
			return true, nil
		}
	}
	return false, apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", schema.GroupResource{}, "", "only application/json is spoken here", 0, true)
}

// readObject reads the object in a request.
func (c *Cluster) readObject(r *http.Request, k *kind) (*unstructured.Unstructured, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType == runtime.ContentTypeProtobuf {
		typed, _, err := serializer.NewCodecFactory(c.builtin.scheme).UniversalDeserializer().Decode(body, &k.GroupVersionKind, nil)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		out := &unstructured.Unstructured{Object: object}
		out.SetGroupVersionKind(k.GroupVersionKind)
		return out, nil
	}
	return parseObject(body)
}

// parseObject reads JSON or YAML.
func parseObject(body []byte) (*unstructured.Unstructured, error) {
	raw, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	object, err := decode(raw)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if object.Object == nil {
		return nil, apierrors.NewBadRequest("there is no object in the body")
	}
	return object, nil
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(body) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return body, nil
}

func (c *Cluster) deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	body, err := readBody(r)
	if err != nil || len(body) == 0 {
		return options, err
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType == runtime.ContentTypeProtobuf {
		gvk := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
		_, _, err = serializer.NewCodecFactory(c.builtin.scheme).UniversalDeserializer().Decode(body, &gvk, options)
	} else {
		err = yaml.Unmarshal(body, options)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return options, nil
}

func (c *Cluster) get(w http.ResponseWriter, r *call, metadataOnly bool) error {
	c.mu.Lock()
	found := c.objects[r.kind.groupResource()][key(r.namespace, r.name)]
	c.mu.Unlock()
	if found == nil {
		return r.notFound()
	}
	writeRaw(w, http.StatusOK, "application/json", present(found, r.kind, metadataOnly))
	return nil
}

func (c *Cluster) patch(w http.ResponseWriter, r *http.Request, change *call, metadataOnly bool) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form := types.PatchType(mediaType)
	if form != types.ApplyYAMLPatchType {
		return answer(w, http.StatusOK, change.kind, metadataOnly)(c.modify(change, func(live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
			return change.kind.patched(live, form, body)
		}))
	}
	if change.manager == "" {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "",
			field.ErrorList{field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
	}
	patch, err := parseObject(body)
	if err != nil {
		return err
	}
	object, created, err := c.apply(change, patch)
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return answer(w, code, change.kind, metadataOnly)(object, err)
}

// writeList answers a list, in pages if asked. A page goes on behind the last object of the page before.
func (c *Cluster) writeList(w http.ResponseWriter, query url.Values, asked *selection, metadataOnly bool) error {
	found, version := c.list(asked)
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}
	if token := query.Get("continue"); token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return apierrors.NewBadRequest("continue key is not valid: " + err.Error())
		}
		found = slices.DeleteFunc(found, func(i item) bool { return i.key <= string(after) })
	}
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > 0 && limit < len(found) {
		remaining := int64(len(found) - limit)
		meta.RemainingItemCount = &remaining
		found = found[:limit]
		meta.Continue = base64.RawURLEncoding.EncodeToString([]byte(found[limit-1].key))
	}
	writeRaw(w, http.StatusOK, "application/json", listJSON(asked, found, metadataOnly, meta))
	return nil
}

func listJSON(asked *selection, found []item, metadataOnly bool, meta metav1.ListMeta) []byte {
	listKind, version := asked.kind.Kind+"List", asked.kind.GroupVersion().String()
	if metadataOnly {
		listKind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	metadata, err := json.Marshal(meta)
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	out := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, listKind, version, metadata)
	for i, item := range found {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, present(item.json, asked.kind, metadataOnly)...)
	}
	return append(out, "]}"...)
}

// watch tells of changes until the client has enough.
func (c *Cluster) watch(w http.ResponseWriter, r *http.Request, asked *selection, metadataOnly bool) error {
	query := r.URL.Query()
	from := query.Get("resourceVersion")
	initial := from == "" || from == "0" || query.Get("sendInitialEvents") == "true"
	position, err := strconv.ParseUint(from, 10, 64)
	if err != nil && from != "" {
		return apierrors.NewBadRequest("invalid resource version")
	}
	var end <-chan time.Time
	if seconds, err := strconv.Atoi(query.Get("timeoutSeconds")); err == nil && seconds > 0 {
		timer := time.NewTimer(time.Duration(seconds) * time.Second)
		defer timer.Stop()
		end = timer.C
	}

	controller := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	send := func(eventType watch.EventType, raw []byte) bool {
		_, err := fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", eventType, raw)
		return err == nil
	}
	// A bookmark tells how new the client is, and no more.
	bookmark := func(annotations string) bool {
		return send(watch.Bookmark, present(fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"%d","creationTimestamp":null%s}}`,
			asked.kind.GroupVersion(), asked.kind.Kind, position, annotations), asked.kind, metadataOnly))
	}
	if initial {
		var found []item
		found, position = c.list(asked)
		for _, item := range found {
			if !send(watch.Added, present(item.json, asked.kind, metadataOnly)) {
				return nil
			}
		}
		if query.Get("sendInitialEvents") == "true" {
			if !bookmark(fmt.Sprintf(`,"annotations":{%q:"true"}`, metav1.InitialEventsAnnotationKey)) {
				return nil
			}
		}
	}
	for {
		changes, next, more, ok := c.since(asked, position)
		if !ok {
			expired := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", position)).Status()
			expired.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
			raw, err := json.Marshal(expired)
			if err == nil {
				send(watch.Error, raw)
			}
			return nil
		}
		for _, change := range changes {
			if !send(change.kind, present(change.json, asked.kind, metadataOnly)) {
				return nil
			}
		}
		if controller.Flush() != nil {
			return nil
		}
		position = next
		select {
		case <-more:
		case <-end:
			// Without it, whoever saw no event for long would come back with a version that is forgotten.
			if query.Get("allowWatchBookmarks") == "true" {
				bookmark("")
			}
			return nil
		case <-c.ended:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// describe answers what is not about objects: whether the cluster is there, what it is, and what it serves.
func (c *Cluster) describe(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	docs := c.docs
	c.mu.Unlock()
	aggregated := strings.Contains(r.Header.Get("Accept"), "as=APIGroupDiscoveryList") && strings.Contains(r.Header.Get("Accept"), "v=v2")
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == "/healthz" || path == "/livez" || path == "/readyz":
		writeRaw(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok"))
	case path == "":
		writeJSON(w, http.StatusOK, metav1.RootPaths{Paths: []string{"/api", "/apis", "/healthz", "/livez", "/readyz", "/version"}})
	case path == "/version":
		major, minor, _ := strings.Cut(strings.TrimPrefix(c.version, "v"), ".")
		minor, _, _ = strings.Cut(minor, ".")
		writeJSON(w, http.StatusOK, version.Info{Major: major, Minor: minor, GitVersion: c.version})
	case path == "/api" && aggregated:
		writeRaw(w, http.StatusOK, aggregatedType, docs.api)
	case path == "/apis" && aggregated:
		writeRaw(w, http.StatusOK, aggregatedType, docs.apis)
	default:
		docs.writeClassic(w, r, path)
	}
}

// writeClassic answers who asks group by group.
func (d *documents) writeClassic(w http.ResponseWriter, r *http.Request, path string) {
	groups, resources, _ := discovery.SplitGroupsAndResources(apidiscovery.APIGroupDiscoveryList{Items: d.groups})
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case path == "/api":
		writeJSON(w, http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		return
	case path == "/apis":
		named := slices.DeleteFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == "" })
		writeJSON(w, http.StatusOK, metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: named})
		return
	case parts[0] == "apis" && len(parts) == 2:
		for _, group := range groups.Groups {
			if group.Name == parts[1] {
				group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				writeJSON(w, http.StatusOK, group)
				return
			}
		}
	case parts[0] == "api" && len(parts) == 2, parts[0] == "apis" && len(parts) == 3:
		gv := schema.GroupVersion{Version: parts[len(parts)-1]}
		if len(parts) == 3 {
			gv.Group = parts[1]
		}
		if list := resources[gv]; list != nil {
			list.TypeMeta = metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}
			writeJSON(w, http.StatusOK, list)
			return
		}
	}
	http.NotFound(w, r)
}
