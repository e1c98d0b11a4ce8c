// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"crypto/x509"
	"testing"
	"time"
)

// A year of renewals, looked at whenever the plan says so. At every look the certificate in use verifies against what was
// trusted one look earlier, which is what callers know at worst, and no bundle grows without end.
func TestCallersAlwaysTrustTheCertificateInUse(t *testing.T) {
	o := Options{Names: []string{"a.b.svc", "127.0.0.1"}}.withDefaults()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := now.AddDate(1, 0, 0)
	var s state
	var known bundle
	generations := map[string]bool{}
	for now.Before(end) {
		then, look, err := s.after(now, o)
		if err != nil {
			t.Fatal(err)
		}
		then = read(then.data()) // as another replica sees it
		if s.serving != nil {
			verify(t, then.serving, known, now)
			verify(t, s.serving, then.trusted, now) // a replica that has not noticed yet
		}
		for _, name := range o.Names {
			if err := then.serving.cert.VerifyHostname(name); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(then.trusted); n > 3 {
			t.Fatalf("%d authorities are trusted at %s", n, now)
		}
		generations[string(then.serving.crt)] = true
		s, known = then, then.trusted
		now = now.Add(look)
	}
	if n := len(generations); n < 6 || n > 8 {
		t.Errorf("%d certificates in a year, want one every 60 days", n)
	}
}

func verify(t *testing.T, g *generation, trusted bundle, now time.Time) {
	t.Helper()
	pool := x509.NewCertPool()
	for _, ca := range trusted {
		pool.AddCert(ca)
	}
	if _, err := g.cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now}); err != nil {
		t.Fatalf("at %s: %v", now, err)
	}
}

func TestPlan(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	o := Options{Names: []string{"a.b.svc"}}.withDefaults()
	made := func(age time.Duration, names ...string) *generation {
		g, err := newGeneration(append(names, o.Names...), now.Add(-age), o.Life)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	const day = 24 * time.Hour
	current, old, expired, waiting, ready := made(day), made(61*day), made(91*day), made(time.Minute), made(2*time.Hour)
	for name, tc := range map[string]struct {
		give          state
		serving, next *generation // nil: any new one
		hasNext       bool
		names         []string
	}{
		"Nothing":          {},
		"Current":          {give: state{serving: current}, serving: current},
		"Old":              {give: state{serving: old}, serving: old, hasNext: true},
		"OldWithWaiting":   {give: state{serving: old, next: waiting}, serving: old, next: waiting, hasNext: true},
		"OldWithReady":     {give: state{serving: old, next: ready}, serving: ready},
		"Expired":          {give: state{serving: expired}},
		"ExpiredWithNext":  {give: state{serving: expired, next: waiting}, serving: waiting},
		"ExpiredNext":      {give: state{serving: current, next: expired}, serving: current},
		"NextAlone":        {give: state{next: waiting}, serving: waiting},
		"AnotherName":      {give: state{serving: current}, names: []string{"a.b.svc", "c.d.svc"}},
		"FewerNames":       {give: state{serving: made(day, "x.y.svc")}, serving: nil, names: o.Names},
		"NoLongerExpected": {give: state{serving: old, next: expired}, serving: old},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			if tc.names != nil {
				o.Names = tc.names
			}
			got, look, err := tc.give.after(now, o)
			if err != nil {
				t.Fatal(err)
			}
			if tc.serving != nil && got.serving != tc.serving || !got.serving.serves(o.Names, now) {
				t.Errorf("another certificate is in use")
			}
			if (got.next != nil) != tc.hasNext || tc.next != nil && got.next != tc.next {
				t.Errorf("another certificate waits: %v", got.next != nil)
			}
			verify(t, got.serving, got.trusted, now)
			if look < time.Second || look > o.Life {
				t.Errorf("looks again in %s", look)
			}
		})
	}
}

// Whatever somebody writes into the Secret, a certificate comes out.
func TestDamagedSecret(t *testing.T) {
	o := Options{Names: []string{"a.b.svc"}}.withDefaults()
	now := time.Now()
	whole, _, err := state{}.after(now, o)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := state{}.after(now, o)
	if err != nil {
		t.Fatal(err)
	}
	for key := range whole.data() {
		for what, value := range map[string][]byte{"Missing": nil, "Garbage": []byte("x"), "AnotherOnes": other.data()[key], "CutOff": whole.data()[key][:100]} {
			data := whole.data()
			data[key] = value
			got, _, err := read(data).after(now, o)
			if err != nil {
				t.Fatal(err)
			}
			if !got.serving.serves(o.Names, now) {
				t.Errorf("%s %s: no certificate", key, what)
			}
			verify(t, got.serving, got.trusted, now)
		}
	}
}
