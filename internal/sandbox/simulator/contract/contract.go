// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package contract knows the fields by which an infrastructure provider answers Cluster API, in the
// contract versions v1beta1 and v1beta2. They are the same for the kinds of every provider, so that
// nothing else about a kind has to be known.
package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	capicontract "sigs.k8s.io/cluster-api/util/contract"
)

// Version is a version of Cluster API's contract.
type Version string

// The contract versions that a sandbox fulfils.
const (
	V1Beta1 Version = "v1beta1"
	V1Beta2 Version = "v1beta2"
)

// Kind is a kind of an infrastructure provider: which version of it to use, and what contract that follows.
type Kind struct {
	schema.GroupVersionKind
	Contract Version
}

// CRDName is the name that Cluster API demands of the CustomResourceDefinition of a kind.
func CRDName(gk schema.GroupKind) string { return capicontract.CalculateCRDName(gk.Group, gk.Kind) }

// Resolve picks contract and API version of a kind from the labels of its CustomResourceDefinition:
// the newest contract that is known here, and the newest API version that follows it.
func Resolve(gk schema.GroupKind, labels map[string]string) (Kind, error) {
	for _, contract := range []Version{V1Beta2, V1Beta1} {
		served := labels["cluster.x-k8s.io/"+string(contract)]
		if served == "" {
			continue
		}
		newest := slices.MaxFunc(strings.Split(served, "_"), version.CompareKubeAwareVersionStrings)
		return Kind{GroupVersionKind: gk.WithVersion(newest), Contract: contract}, nil
	}
	return Kind{}, fmt.Errorf("CustomResourceDefinition %s has neither the label cluster.x-k8s.io/v1beta2 nor cluster.x-k8s.io/v1beta1; "+
		"one of them has to name the versions that follow Cluster API's contract", CRDName(gk))
}

// Endpoint is where a control plane is reached.
type Endpoint struct {
	Host string
	Port int32
}

// GetEndpoint reads the control plane endpoint of an InfraCluster; the zero value when it has none.
func GetEndpoint(infraCluster *unstructured.Unstructured) (Endpoint, error) {
	host, _, err := unstructured.NestedString(infraCluster.Object, "spec", "controlPlaneEndpoint", "host")
	if err != nil {
		return Endpoint{}, err
	}
	port, _, err := unstructured.NestedInt64(infraCluster.Object, "spec", "controlPlaneEndpoint", "port")
	return Endpoint{Host: host, Port: int32(port)}, err //nolint:gosec // the schema limits it
}

// SetEndpoint writes the control plane endpoint to an InfraCluster. One that names another endpoint is refused:
// nothing would answer there.
func SetEndpoint(infraCluster *unstructured.Unstructured, endpoint Endpoint) error {
	got, err := GetEndpoint(infraCluster)
	if err != nil {
		return err
	}
	got.Port = cmp.Or(got.Port, endpoint.Port)
	if got.Host != "" && got != endpoint {
		return fmt.Errorf("spec.controlPlaneEndpoint is %s:%d, but in this sandbox the cluster is served at %s:%d: leave the field empty", got.Host, got.Port, endpoint.Host, endpoint.Port)
	}
	return unstructured.SetNestedMap(infraCluster.Object, map[string]any{"host": endpoint.Host, "port": int64(endpoint.Port)}, "spec", "controlPlaneEndpoint")
}

// SetProviderID writes the identity of the machine to an InfraMachine.
func SetProviderID(infraMachine *unstructured.Unstructured, id string) error {
	return unstructured.SetNestedField(infraMachine.Object, id, "spec", "providerID")
}

// ProviderID is the identity of the machine, empty when there is none yet.
func ProviderID(infraMachine *unstructured.Unstructured) string {
	id, _, _ := unstructured.NestedString(infraMachine.Object, "spec", "providerID")
	return id
}

// SetProvisioned writes to the status of an InfraCluster or InfraMachine that it is there.
func SetProvisioned(infra *unstructured.Unstructured, contract Version) error {
	if contract == V1Beta1 {
		return unstructured.SetNestedField(infra.Object, true, "status", "ready")
	}
	return unstructured.SetNestedField(infra.Object, true, "status", "initialization", "provisioned")
}

// IsProvisioned tells what SetProvisioned has written.
func IsProvisioned(infra *unstructured.Unstructured, contract Version) bool {
	path := []string{"status", "initialization", "provisioned"}
	if contract == V1Beta1 {
		path = []string{"status", "ready"}
	}
	provisioned, _, _ := unstructured.NestedBool(infra.Object, path...)
	return provisioned
}

// SetFailure writes to the status of an InfraCluster or InfraMachine that the provider has given up, or that it has
// not. The newer contract knows no such thing.
func SetFailure(infra *unstructured.Unstructured, contract Version, terminal bool, reason, message string) error {
	if contract != V1Beta1 {
		return nil
	}
	for field, value := range map[string]string{"failureReason": reason, "failureMessage": message} {
		if !terminal {
			unstructured.RemoveNestedField(infra.Object, "status", field)
			continue
		}
		if err := unstructured.SetNestedField(infra.Object, value, "status", field); err != nil {
			return err
		}
	}
	return nil
}

// SetAddresses writes the addresses of a machine to the status of its InfraMachine.
func SetAddresses(infraMachine *unstructured.Unstructured, hostname, ip string) error {
	return unstructured.SetNestedSlice(infraMachine.Object, []any{
		map[string]any{"type": "Hostname", "address": hostname},
		map[string]any{"type": "InternalIP", "address": ip},
	}, "status", "addresses")
}

// readyCondition is the condition of an InfraCluster or InfraMachine that Cluster API shows in its Cluster or
// Machine, as InfrastructureReady.
const readyCondition = "Ready"

// SetReady writes the condition Ready to the status of an InfraCluster or InfraMachine; other conditions stay as
// they are. The API server drops it where the schema of the kind has no conditions.
func SetReady(infra *unstructured.Unstructured, contract Version, status metav1.ConditionStatus, reason, message string) error {
	conditions, _, err := unstructured.NestedSlice(infra.Object, "status", "conditions")
	if err != nil {
		return err
	}
	index := slices.IndexFunc(conditions, func(c any) bool {
		condition, ok := c.(map[string]any)
		return ok && condition["type"] == readyCondition
	})
	since := time.Now().UTC().Format(time.RFC3339)
	if index < 0 {
		index = len(conditions)
		conditions = append(conditions, nil)
	} else if known := conditions[index].(map[string]any); known["status"] == string(status) {
		told, _ := known["lastTransitionTime"].(string)
		since = cmp.Or(told, since)
	}
	ready := map[string]any{
		"type": readyCondition, "status": string(status), "reason": reason, "message": message, "lastTransitionTime": since,
	}
	switch {
	case contract == V1Beta2:
		if generation := infra.GetGeneration(); generation > 0 {
			ready["observedGeneration"] = generation
		}
	case status != metav1.ConditionTrue:
		// Conditions of the older contract know how bad it is. It may get better by itself.
		ready["severity"] = "Warning"
	}
	conditions[index] = ready
	return unstructured.SetNestedSlice(infra.Object, conditions, "status", "conditions")
}

// ProviderIDList are the identities of the instances of an InfraMachinePool.
func ProviderIDList(infraMachinePool *unstructured.Unstructured) []string {
	ids, _, _ := unstructured.NestedStringSlice(infraMachinePool.Object, "spec", "providerIDList")
	return ids
}

// SetProviderIDList writes the identities of its instances to an InfraMachinePool.
func SetProviderIDList(infraMachinePool *unstructured.Unstructured, ids []string) error {
	return unstructured.SetNestedStringSlice(infraMachinePool.Object, ids, "spec", "providerIDList")
}

// SetPoolProvisioned writes to the status of an InfraMachinePool that it is there, with so many instances. Of pools
// Cluster API asks the same by both contracts.
func SetPoolProvisioned(infraMachinePool *unstructured.Unstructured, replicas int) error {
	if err := unstructured.SetNestedField(infraMachinePool.Object, int64(replicas), "status", "replicas"); err != nil {
		return err
	}
	return SetProvisioned(infraMachinePool, V1Beta1)
}
