package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim"
	"attestbox/internal/wire"
)

// perOp is how long f takes, the shortest of five rounds.
func perOp(f func()) time.Duration {
	best := time.Duration(1<<63 - 1)
	for range 5 {
		n := 0
		start := time.Now()
		for time.Since(start) < 40*time.Millisecond {
			f()
			n++
		}
		best = min(best, time.Since(start)/time.Duration(n))
	}
	return best
}

// primitives are the cryptographic operations of one certification on the
// server's side, each once, on one core.
type primitives struct{ report, csr, sign, seal, chain time.Duration }

func measurePrimitives(b *testing.B, w *domainWorld) (p primitives) {
	b.Helper()
	vcek := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	digest := sha512.Sum384([]byte("report"))
	r, s, err := ecdsa.Sign(rand.Reader, vcek, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	p.report = perOp(func() { ecdsa.Verify(&vcek.PublicKey, digest[:], r, s) })
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	msg := make([]byte, 600)
	sig := ed25519.Sign(key, msg)
	p.csr = perOp(func() { ed25519.Verify(pub, msg, sig) })
	// crypto/x509 checks the signature that it has just made.
	p.sign = perOp(func() { ed25519.Sign(key, msg); ed25519.Verify(pub, msg, sig) })
	hk := must(wire.NewKey())
	t := &wire.CertifyTranscript{Version: 1, Key: hk.PublicKey().Bytes()}
	payload := &wire.Payload{DiskKey: secret.Random(32), OutcomeKey: secret.Random(32)}
	p.seal = perOp(func() { must(wire.SealCertify(t, payload)) })
	rk := must(rsa.GenerateKey(rand.Reader, 4096))
	pss := &rsa.PSSOptions{SaltLength: 48}
	rsig := must(rsa.SignPSS(rand.Reader, rk, crypto.SHA384, digest[:], pss))
	p.chain = 2 * perOp(func() { rsa.VerifyPSS(&rk.PublicKey, crypto.SHA384, digest[:], rsig, pss) })
	return p
}

func (p primitives) sum(cached bool) time.Duration {
	d := p.report + p.csr + p.sign + p.seal
	if !cached {
		d += p.chain
	}
	return d
}

// benchDomain is a domain world for benchmarks: real syncs, no log lines.
func benchDomain(b *testing.B) *domainWorld {
	b.Helper()
	return newDomainWorldTB(b, func(w *domainWorld, o *Options, c *DomainConfig) {
		o.Log, o.Now = nil, nil
		o.Limits.IDRate, o.Limits.IDBurst = 1e9, 1e9
	})
}

// BenchmarkCertify is the server's work from evidence to answer, without the
// TLS handshake: appraisal, proof and its check, certificate, share, audit log,
// HPKE. x-primitives is how many times the cryptography alone it takes.
func BenchmarkCertify(b *testing.B) {
	w := benchDomain(b)
	prim := measurePrimitives(b, w)
	b.Logf("primitives: report P-384 %v, CSR %v, issue and check %v, HPKE %v, chain RSA-4096 %v", prim.report, prim.csr, prim.sign, prim.seal, prim.chain)
	key := must(wire.NewKey())
	csr := must(admission.NewCSR(ed25519Key()))
	for _, procs := range []int{1, 2} {
		for _, cached := range []bool{true, false} {
			b.Run(fmt.Sprintf("procs=%d/chain-cached=%t", procs, cached), func(b *testing.B) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				type work struct {
					t  *wire.CertifyTranscript
					ev *platform.Evidence
				}
				guest := w.psp.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: [32]byte{1}}).Platform()
				todo := make([]work, min(b.N, 2000))
				for i := range todo {
					t := &wire.CertifyTranscript{Version: 1, Domain: w.name, Role: wire.RoleClient, CSR: csr, Suite: wire.SuiteID(), Key: key.PublicKey().Bytes()}
					rand.Read(t.Nonce[:])
					todo[i] = work{t, must(guest.Report(context.Background(), t.ReportData()))}
				}
				if !cached {
					saved := w.domain.prover.cache
					w.domain.prover.cache = nil
					defer func() { w.domain.prover.cache = saved }()
				} else {
					w.domain.prover.cache = appraise.NewChainCache(chainCacheSize)
				}
				var next sync.Mutex
				n := 0
				one := func() {
					next.Lock()
					j := todo[n%len(todo)]
					n++
					next.Unlock()
					ctx := context.Background()
					x := &exchange{protocol: RoleCertify, started: time.Now()}
					a := &asked{platform: j.ev.Platform, report: j.ev.Report, endorsements: j.ev.Endorsements, reportData: j.t.ReportData(), role: j.t.Role, now: w.server.Now()}
					adm, shown, err := w.domain.admit(ctx, a, j.t.CSR)
					if err != nil {
						panic(err)
					}
					d := &Decision{Exchange: x.id.String(), Decision: Admitted, Protocol: RoleCertify}
					d.fill(shown, w.domain)
					answer, err := w.server.admission(ctx, x, w.domain, j.t, adm, d.Proof, a.now)
					if err == nil {
						err = w.server.record(x, d)
					}
					if err == nil {
						_, err = wire.Marshal(answer)
					}
					if err != nil {
						panic(err)
					}
				}
				one()
				cpu := cpuTime()
				b.ResetTimer()
				b.SetParallelism(1)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						one()
					}
				})
				b.StopTimer()
				each := (cpuTime() - cpu) / time.Duration(b.N)
				b.ReportMetric(float64(each.Microseconds())/1000, "cpu-ms/op")
				b.ReportMetric(float64(each)/float64(prim.sum(cached)), "x-primitives")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
			})
		}
	}
}

// BenchmarkCertifyClients is whole exchanges over loopback with the real
// client, both ends and the simulated chip on the same cores.
func BenchmarkCertifyClients(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			w := benchDomain(b)
			times := make([]time.Duration, b.N)
			var n int
			var mu sync.Mutex
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					cfg := w.certifyConfig(w.vm(imageA, 1, nil))
					cfg.Now = nil
					for {
						mu.Lock()
						i := n
						n++
						mu.Unlock()
						if i >= b.N {
							return
						}
						start := time.Now()
						a, err := client.Certify(context.Background(), cfg)
						if err != nil {
							panic(err)
						}
						a.Close()
						times[i] = time.Since(start)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
		})
	}
}

// BenchmarkHandshake is a TLS handshake as certify's, both ends: what a
// certification costs before its first message.
func BenchmarkHandshake(b *testing.B) {
	w := benchDomain(b)
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	server := w.server.tlsConfig(&exchange{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); tls.Server(c, server).Handshake() }()
		}
	}()
	cfg := must(wire.PinnedTLS(wire.ALPNCertify, []wire.Pin{w.server.Pin()}))
	for b.Loop() {
		c := must(tls.Dial("tcp", l.Addr().String(), cfg))
		c.Close()
	}
}

// BenchmarkKeys is fetches over kept and over new connections.
func BenchmarkKeys(b *testing.B) {
	w := benchDomain(b)
	ctx := context.Background()
	cert := w.mustCertify(w.vm(imageA, 1, nil))
	if _, err := w.keys(w.mustCertify(w.enclave)).Put(ctx, "db/password", 0, "", sec("sesame")); err != nil {
		b.Fatal(err)
	}
	cfg := w.keysConfig(cert)
	cfg.Now = nil
	w.server.Limits.KeyConnsBy = 1000
	w.server.members = newBuckets(1e9, 1e9, 100)
	b.Run("kept", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			k, err := client.DialKeys(ctx, cfg)
			if err != nil {
				panic(err)
			}
			defer k.Close()
			for pb.Next() {
				s, err := k.Get(ctx, "db/password", 0)
				if err != nil {
					panic(err)
				}
				s.Value.Zero()
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
	})
	b.Run("new", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s, err := client.Fetch(ctx, cfg, "db/password", 0)
				if err != nil {
					panic(err)
				}
				s.Value.Zero()
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
	})
}
