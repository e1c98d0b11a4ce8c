// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"fmt"

	"sigs.k8s.io/yaml"
)

// ClusterConfiguration holds the fields of kubeadm's document of that name that show in a cluster.
type ClusterConfiguration struct {
	ImageRepository string `json:"imageRepository"`
	DNS             Addon  `json:"dns"`
	Proxy           Addon  `json:"proxy"`
	APIServer       struct {
		Program
		// CertSANs are further names of the API server.
		CertSANs []string `json:"certSANs"`
	} `json:"apiServer"`
	ControllerManager Program `json:"controllerManager"`
	Scheduler         Program `json:"scheduler"`
	Etcd              struct {
		Local    Program   `json:"local"`
		External *struct{} `json:"external"`
	} `json:"etcd"`
	Networking struct {
		PodSubnet     string `json:"podSubnet"`
		ServiceSubnet string `json:"serviceSubnet"`
		DNSDomain     string `json:"dnsDomain"`
	} `json:"networking"`
}

// Program is how a program of the control plane is configured.
type Program struct {
	ExtraArgs extraArgs `json:"extraArgs"`
}

// Addon is how kubeadm's own addons are configured.
type Addon struct {
	ImageRepository string `json:"imageRepository"`
	ImageTag        string `json:"imageTag"`
	Disabled        bool   `json:"disabled"`
}

// Networks of a cluster that does not name its own.
const (
	DefaultServiceSubnet = "10.96.0.0/12"
	DefaultDNSDomain     = "cluster.local"
	defaultRepository    = "registry.k8s.io"
)

// ParseClusterConfiguration reads kubeadm's ClusterConfiguration and fills in kubeadm's defaults.
func ParseClusterConfiguration(document string) (ClusterConfiguration, error) {
	var c ClusterConfiguration
	if err := yaml.Unmarshal([]byte(document), &c); err != nil {
		return c, fmt.Errorf("ClusterConfiguration: %w", err)
	}
	c.ImageRepository = cmp.Or(c.ImageRepository, defaultRepository)
	c.Networking.ServiceSubnet = cmp.Or(c.Networking.ServiceSubnet, DefaultServiceSubnet)
	c.Networking.DNSDomain = cmp.Or(c.Networking.DNSDomain, DefaultDNSDomain)
	return c, nil
}
