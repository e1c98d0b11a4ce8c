// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
)

// Guard keeps requests away from the networks inside: whoever may name a server must not be able to have
// the operator talk to what only the operator can reach, such as the metadata service of a cloud. It looks
// at the address that is connected to, after the name was resolved, so it does not matter what a name
// resolves to, or that it resolves to something else the next time.
type Guard struct {
	// Allowed are networks that may be reached although they are inside.
	Allowed []netip.Prefix
}

// inside are the networks that do not lead to the internet, besides those that netip knows.
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),  // behind the NAT of a carrier; metadata services, too
	netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments; metadata services, too
	netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks
	netip.MustParsePrefix("240.0.0.0/4"),    // reserved, and broadcast
	netip.MustParsePrefix("64:ff9b:1::/48"), // translation to addresses of a local choice
	netip.MustParsePrefix("100::/64"),       // discarded
	netip.MustParsePrefix("fec0::/10"),      // site-local, as it once was
}

// Prefixes of IPv6 that have an address of IPv4 in them, and where.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

// Check returns an error that says what to do when an address must not be connected to.
func (g *Guard) Check(addr netip.Addr) error {
	if g == nil {
		return nil
	}
	addr = addr.WithZone("").Unmap()
	if slices.ContainsFunc(g.Allowed, func(p netip.Prefix) bool { return p.Contains(addr) }) || !isInside(addr) {
		return nil
	}
	return final{fmt.Errorf("%s is in a network that must not be reached from here; if it may be, the administrator of the operator adds its network to --allow-networks", addr)}
}

func isInside(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return true // loopback, link-local, multicast and the unspecified address are no global ones
	}
	if slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return true
	}
	for _, e := range embedding {
		if bytes := addr.AsSlice(); addr.Is6() && e.prefix.Contains(addr) {
			return isInside(netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])))
		}
	}
	return false
}

// dial connects as d does, unless the guard objects.
func (g *Guard) dial(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	if g == nil {
		return d.DialContext
	}
	guarded := *d
	guarded.Control = func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return final{err}
		}
		return g.Check(to.Addr())
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		// A proxy is named by the administrator, and is usually inside. It resolves the names, and so has to
		// keep its clients from where they must not go.
		if isProxy(address) {
			return d.DialContext(ctx, network, address)
		}
		return guarded.DialContext(ctx, network, address)
	}
}

// isProxy tells whether an address is that of a proxy from the environment.
func isProxy(address string) bool {
	for _, scheme := range []string{"http", "https"} {
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: scheme, Host: "example.org"}})
		if err == nil && proxy != nil && net.JoinHostPort(proxy.Hostname(), proxyPort(proxy)) == address {
			return true
		}
	}
	return false
}

func proxyPort(proxy *url.URL) string {
	if proxy.Port() == "" && proxy.Scheme == "socks5" {
		return "1080"
	}
	return port(proxy)
}
