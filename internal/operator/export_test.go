// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

// Location names the source of the operator.
func Location(c *Config) (string, error) {
	_, _, location, err := c.ownSource(nil)
	return location, err
}
