// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubeconfig puts the clusters of a sandbox into the kubeconfig file that a user works with, and takes them out
// again.
//
// What is put there is marked with its owner, so that it can be told from what others have written, under whatever
// name it goes by then. An entry without the mark is never changed. A file is changed as kubectl changes it, under the
// same lock, and appears whole or not at all.
package kubeconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Entry is a way to reach one cluster.
type Entry struct {
	// Name becomes that of context, cluster and user.
	Name string
	// Kubeconfig is a file of its own, of which the current context counts. Certificates are in it, not beside it.
	Kubeconfig []byte
}

// TakenError says that somebody else uses the name of an entry.
type TakenError struct{ Kind, Name, File string }

func (e *TakenError) Error() string {
	message := fmt.Sprintf("%s has a %s %s that is not of this sandbox", e.File, e.Kind, e.Name)
	if e.Kind == "context" {
		return fmt.Sprintf("%s; rename it: kubectl config rename-context %s NAME", message, e.Name)
	}
	return message + "; remove or rename it"
}

// extension is the name of the mark: kubeconfig files have a place for what others than kubectl want to remember.
const extension = "sandbox.clusterstack.x-k8s.io"

// mark is what is remembered of an entry.
type mark struct {
	// Owner is the state folder of the sandbox.
	Owner string `json:"owner"`
	// Server is where a cluster was reached when it was put there. Who changes it makes the entry his own.
	Server string `json:"server,omitempty"`
}

func (m mark) set(extensions *map[string]runtime.Object) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if *extensions == nil {
		*extensions = map[string]runtime.Object{}
	}
	(*extensions)[extension] = &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
	return nil
}

// markOf reads a mark. What we cannot read is not ours.
func markOf(extensions map[string]runtime.Object) (m mark, marked bool) {
	unknown, ok := extensions[extension].(*runtime.Unknown)
	if !ok || json.Unmarshal(unknown.Raw, &m) != nil {
		return mark{}, false
	}
	return m, m.Owner != ""
}

// put adds entries to a configuration, in place of entries of the same name and owner. With others the owner has
// no more than these afterwards.
func put(config *clientcmdapi.Config, owner string, entries []Entry, others bool) error {
	if !others {
		take(config, owner)
	}
	for _, e := range entries {
		if err := putOne(config, owner, e); err != nil {
			return err
		}
	}
	return nil
}

func putOne(config *clientcmdapi.Config, owner string, e Entry) error {
	given, err := clientcmd.Load(e.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", e.Name, err)
	}
	current := given.Contexts[given.CurrentContext]
	if current == nil || given.Clusters[current.Cluster] == nil || given.AuthInfos[current.AuthInfo] == nil {
		return fmt.Errorf("kubeconfig of %s: its current context %q names no cluster and user", e.Name, given.CurrentContext)
	}
	if taken := takenBy(config, owner, e.Name); taken != "" {
		return &TakenError{Kind: taken, Name: e.Name}
	}
	cluster, user := given.Clusters[current.Cluster], given.AuthInfos[current.AuthInfo]
	context := &clientcmdapi.Context{Cluster: e.Name, AuthInfo: e.Name, Namespace: current.Namespace}
	if err := errors.Join(
		mark{Owner: owner, Server: cluster.Server}.set(&cluster.Extensions),
		mark{Owner: owner}.set(&user.Extensions),
		mark{Owner: owner}.set(&context.Extensions),
	); err != nil {
		return err
	}
	config.Clusters[e.Name], config.AuthInfos[e.Name], config.Contexts[e.Name] = cluster, user, context
	return nil
}

// takenBy says which kind of entry of this name belongs to somebody else.
func takenBy(config *clientcmdapi.Config, owner, name string) (kind string) {
	others := func(extensions map[string]runtime.Object) bool {
		m, _ := markOf(extensions)
		return m.Owner != owner
	}
	if c := config.Contexts[name]; c != nil && others(c.Extensions) {
		return "context"
	}
	if c := config.Clusters[name]; c != nil && (others(c.Extensions) || !asPut(c)) {
		return "cluster"
	}
	if u := config.AuthInfos[name]; u != nil && others(u.Extensions) {
		return "user"
	}
	return ""
}

// asPut tells whether a marked cluster still is what was put there.
func asPut(c *clientcmdapi.Cluster) bool {
	m, marked := markOf(c.Extensions)
	return marked && c.Server == m.Server
}

// take removes what an owner has in a configuration, except clusters that somebody has pointed elsewhere since, and what
// is needed to reach these. It returns the names of the contexts that are gone.
func take(config *clientcmdapi.Config, owner string) (contexts []string) {
	owned := func(extensions map[string]runtime.Object) bool {
		m, _ := markOf(extensions)
		return m.Owner == owner
	}
	for name, c := range config.Contexts {
		if cluster := config.Clusters[c.Cluster]; owned(c.Extensions) && (cluster == nil || owned(cluster.Extensions) && asPut(cluster)) {
			contexts = append(contexts, name)
		}
	}
	for _, name := range contexts {
		delete(config.Contexts, name)
		if config.CurrentContext == name {
			config.CurrentContext = ""
		}
	}
	maps.DeleteFunc(config.Clusters, func(_ string, c *clientcmdapi.Cluster) bool { return owned(c.Extensions) && asPut(c) })
	used := map[string]bool{}
	for _, c := range config.Contexts {
		used[c.AuthInfo] = true
	}
	maps.DeleteFunc(config.AuthInfos, func(name string, u *clientcmdapi.AuthInfo) bool { return owned(u.Extensions) && !used[name] })
	slices.Sort(contexts)
	return contexts
}

// Join makes one kubeconfig file of several, with the first as the current context.
func Join(entries []Entry) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	for _, e := range entries {
		if err := putOne(config, "", e); err != nil {
			return nil, err
		}
	}
	for name := range config.Contexts {
		delete(config.Contexts[name].Extensions, extension)
		delete(config.Clusters[name].Extensions, extension)
		delete(config.AuthInfos[name].Extensions, extension)
	}
	if len(entries) > 0 {
		config.CurrentContext = entries[0].Name
	}
	return clientcmd.Write(*config)
}
