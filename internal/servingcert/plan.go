// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Keys of the Secret. Those of the certificate in use are the usual ones, and ca.crt is what Cluster API copies into an
// ExtensionConfig.
const (
	authoritiesKey = "ca.crt"
	nextCertKey    = "next.crt"
	nextKeyKey     = "next.key"
)

// state is what the Secret holds.
type state struct {
	serving *generation
	// next takes over once everybody trusts its authority.
	next    *generation
	trusted bundle
}

// read understands what it can; a part that is missing or damaged is made anew.
func read(data map[string][]byte) state {
	s := state{trusted: readBundle(data[authoritiesKey])}
	s.serving, _ = readGeneration(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey])
	s.next, _ = readGeneration(data[nextCertKey], data[nextKeyKey])
	return s
}

func (s state) data() map[string][]byte {
	data := map[string][]byte{authoritiesKey: s.trusted.pem(), corev1.TLSCertKey: s.serving.crt, corev1.TLSPrivateKeyKey: s.serving.key}
	if s.next != nil {
		data[nextCertKey], data[nextKeyKey] = s.next.crt, s.next.key
	}
	return data
}

// after returns the state that has to follow, and when to look again. It takes one step at a time: the authority of a
// new certificate is published first, and only when all callers have had the time to learn of it does the certificate
// take over. The authority that is left is trusted as long as it is valid, since a replica may not have noticed yet.
func (s state) after(now time.Time, o Options) (state, time.Duration, error) {
	var err error
	switch {
	case !s.serving.serves(o.Names, now):
		// Nobody can be called now; there is nothing to be gentle about.
		s.serving, s.next = s.next, nil
		if !s.serving.serves(o.Names, now) {
			s.serving, err = newGeneration(o.Names, now, o.Life)
		}
	case s.next != nil && !s.next.serves(o.Names, now):
		s.next = nil
	case s.next == nil && !now.Before(s.serving.issued().Add(o.RenewAfter)):
		s.next, err = newGeneration(o.Names, now, o.Life)
	case s.next != nil && !now.Before(s.next.issued().Add(o.Overlap)):
		s.serving, s.next = s.next, nil
	}
	if err != nil {
		return state{}, 0, err
	}
	s.trusted = s.trusted.with(now, s.serving, s.next)
	look := s.serving.issued().Add(o.RenewAfter)
	if s.next != nil {
		look = s.next.issued().Add(o.Overlap)
	}
	return s, max(look.Sub(now), time.Second), nil
}
