// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/standin"
)

// clusterCount is how many clusters there are.
const clusterCount = 1000

// thousand measures an operator that has a thousand clusters, with stand-ins for their API servers.
func thousand(b *testing.B, program string, rel published, report func(string, float64)) {
	standins, err := standin.Listen()
	if err != nil {
		b.Fatal(err)
	}
	defer standins.Close()
	s := newSite(b, program, rel, true)
	begin := time.Now()
	var all []*standin.Cluster
	var clusters []*clusterv1.Cluster
	for i := range clusterCount {
		standIn, err := standins.Add(fmt.Sprintf("c%d", i), version)
		if err != nil {
			b.Fatal(err)
		}
		kubeconfig, err := standIn.Kubeconfig()
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, standIn)
		clusters = append(clusters, s.add(b, standIn.Name(), kubeconfig))
		s.initialize(b, clusters[i])
	}
	s.installed(b, clusters)
	fmt.Fprintf(os.Stderr, "  %d clusters installed in %s\n", clusterCount, time.Since(begin).Round(time.Second))
	s.rests(b)
	writes := func() (n int64) {
		n = s.writes.Load()
		for _, c := range all {
			n += int64(c.Requests().Writes)
		}
		return n
	}

	report("memory_mib_1000", s.memory(b))

	// Asked once before, so that what the first call writes down is there.
	hooks := s.hookClient()
	if err := s.ask(hooks, clusters[0]); err != nil {
		b.Fatal(err)
	}
	s.settle(b)
	before := writes()
	s.forget()
	s.stop(b)
	restarted := time.Now()
	s.start(b)
	for {
		if err := s.ask(hooks, clusters[0]); err == nil {
			break
		} else if time.Since(restarted) > patience {
			b.Fatalf("hooks are not answered: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	report("restart_hook_seconds", time.Since(restarted).Seconds())
	// Every cluster is connected again and looked at once.
	for connected := 0; connected < len(all); {
		connected = 0
		for _, c := range all {
			if c.Requests().Probes > 0 {
				connected++
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.settle(b)
	report("restart_writes", float64(writes()-before))
	for _, what := range s.forget() {
		fmt.Fprintf(os.Stderr, "  written: %s\n", what)
	}
	fmt.Fprintf(os.Stderr, "  memory after the restart: %.0f MiB\n", s.memory(b))

	var took []time.Duration
	for i := range 5 * len(clusters) {
		begin := time.Now()
		if err := s.ask(hooks, clusters[i%len(clusters)]); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	report("hook_p99_ms", float64(percentile(took, 0.99).Microseconds())/1000)
	s.stop(b)
}

// ask asks the hook server what Cluster API asks before it upgrades a cluster, here one whose user has not asked for that.
func (s *site) ask(c *http.Client, cluster *clusterv1.Cluster) error {
	body, err := json.Marshal(&runtimehooksv1.BeforeClusterUpgradeRequest{
		TypeMeta:              metav1.TypeMeta{APIVersion: runtimehooksv1.GroupVersion.String(), Kind: "BeforeClusterUpgradeRequest"},
		Cluster:               *cluster,
		FromKubernetesVersion: version,
		ToKubernetesVersion:   version + "0",
	})
	if err != nil {
		return err
	}
	url := "https://" + s.hooks + "/" + runtimehooksv1.GroupVersion.String() + "/beforeclusterupgrade/before-cluster-upgrade"
	answer, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	response := &runtimehooksv1.BeforeClusterUpgradeResponse{}
	if err := json.Unmarshal(raw, response); err != nil {
		return fmt.Errorf("%s: %w", raw, err)
	}
	if answer.StatusCode != http.StatusOK || response.Status != runtimehooksv1.ResponseStatusSuccess || response.RetryAfterSeconds == 0 {
		return errors.New(string(raw))
	}
	return nil
}
