package services

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is what a server may send in one datagram without fragments (DNS flag
	// day 2020); longer answers come over TCP.
	udpSize = 1232

	// maxTargets bounds the targets of an SRV answer that are looked up.
	maxTargets = 64
)

// dnsResolver asks the servers of a configuration.
type dnsResolver struct{ config *dns.ClientConfig }

// addresses asks for the A and AAAA records of a full name. With one of the two
// questions answered and the other not, both the answer and the error say so.
// errNoName and errEmpty mean that there is certainly none.
func (r dnsResolver) addresses(ctx context.Context, name string) (answer, error) {
	type reply struct {
		message *dns.Msg
		err     error
	}
	six := make(chan reply, 1)
	go func() {
		message, err := r.ask(ctx, name, dns.TypeAAAA)
		six <- reply{message, err}
	}()
	four, err4 := r.ask(ctx, name, dns.TypeA)
	of6 := <-six

	a := answer{ttl: maxLifetime}
	var addrs []netip.Addr
	for _, message := range []*dns.Msg{four, of6.message} {
		if message == nil {
			continue
		}
		for _, record := range message.Answer {
			a.ttl = min(a.ttl, time.Duration(record.Header().Ttl)*time.Second)
			if addr, ok := addressOf(record); ok {
				addrs = append(addrs, addr)
			}
		}
	}
	a.addrs = distinct(addrs)
	gone4, gone6 := errors.Is(err4, errNoName), errors.Is(of6.err, errNoName)
	a.no4, a.no6 = err4 != nil && !gone4, of6.err != nil && !gone6
	switch {
	case len(a.addrs) > maxAnswer:
		return answer{}, fail("too many addresses", "look up %s: %d addresses are more than can be watched", name, len(a.addrs))
	case a.no4:
		return a, err4
	case a.no6:
		return a, of6.err
	case len(a.addrs) > 0:
		return a, nil
	case gone4 && gone6:
		return answer{}, errNoName
	default:
		return answer{}, errEmpty
	}
}

func addressOf(record dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch record := record.(type) {
	case *dns.A:
		ip = record.A
	case *dns.AAAA:
		ip = record.AAAA
	}
	return netip.AddrFromSlice(ip)
}

// targets asks for the SRV records of a full name and the addresses of each
// target. Nothing less than all of them is an answer.
func (r dnsResolver) targets(ctx context.Context, name string, port uint16) (answer, error) {
	message, err := r.ask(ctx, name, dns.TypeSRV)
	if err != nil {
		return answer{}, err
	}
	all := answer{ttl: maxLifetime}
	var targets []string
	for _, record := range message.Answer {
		all.ttl = min(all.ttl, time.Duration(record.Header().Ttl)*time.Second)
		srv, ok := record.(*dns.SRV)
		// The target "." says that there is no such service.
		if ok && srv.Target != "." && (port == 0 || srv.Port == port) {
			targets = append(targets, srv.Target)
		}
	}
	if len(targets) > maxTargets {
		return answer{}, fail("too many targets", "look up %s: %d targets are more than can be watched", name, len(targets))
	}
	for _, target := range targets {
		a, err := r.addresses(ctx, target)
		switch {
		case errors.Is(err, errNoName), errors.Is(err, errEmpty):
			continue
		case err != nil:
			return answer{}, err
		}
		all.addrs, all.ttl = append(all.addrs, a.addrs...), min(all.ttl, a.ttl)
	}
	all.addrs = distinct(all.addrs)
	switch {
	case len(all.addrs) == 0:
		return answer{}, errEmpty
	case len(all.addrs) > maxAnswer:
		return answer{}, fail("too many addresses", "look up %s: %d addresses are more than can be watched", name, len(all.addrs))
	}
	return all, nil
}

// ask asks one server after the other until one answers, as resolv.conf(5) has
// it. A name that does not exist is the error errNoName.
func (r dnsResolver) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	var err error
	for range r.config.Attempts {
		for _, server := range r.config.Servers {
			var message *dns.Msg
			message, err = r.askServer(ctx, net.JoinHostPort(server, r.config.Port), name, kind)
			if err == nil || errors.Is(err, errNoName) {
				return message, err
			}
			if ctx.Err() != nil {
				return nil, err
			}
		}
	}
	return nil, err
}

func (r dnsResolver) askServer(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, kind)
	question.SetEdns0(udpSize, false)
	message, err := r.exchange(ctx, "udp", server, question)
	if err == nil && message.Truncated {
		message, err = r.exchange(ctx, "tcp", server, question)
	}
	what := name + " " + dns.TypeToString[kind]
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return nil, fail("timeout", "ask %s for %s: %w", server, what, err)
	case err != nil:
		return nil, fail("exchange", "ask %s for %s: %w", server, what, err)
	case message.Truncated:
		return nil, fail("truncated", "ask %s for %s: the answer is truncated", server, what)
	case !answers(message, question):
		return nil, fail("exchange", "ask %s for %s: the answer is to another question", server, what)
	case message.Rcode == dns.RcodeNameError:
		return nil, errNoName
	case message.Rcode != dns.RcodeSuccess:
		return nil, fail(strings.ToLower(dns.RcodeToString[message.Rcode]), "ask %s for %s: answer is %s", server, what, dns.RcodeToString[message.Rcode])
	}
	return message, nil
}

// exchange sends one question and waits for its answer, which the end of ctx cuts
// short.
func (r dnsResolver) exchange(ctx context.Context, network, server string, question *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: network, Timeout: time.Duration(r.config.Timeout) * time.Second}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	message, _, err := client.ExchangeWithConnContext(ctx, question, conn)
	return message, err
}

// answers reports whether a message is the answer to the question.
func answers(message, question *dns.Msg) bool {
	return message.Response && len(message.Question) == 1 &&
		strings.EqualFold(message.Question[0].Name, question.Question[0].Name) &&
		message.Question[0].Qtype == question.Question[0].Qtype
}
