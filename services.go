package main

import (
	"fmt"

	"tcphup/config"
	"tcphup/endpoints"
	"tcphup/internal/address"
)

// services is the repeatable flag --service.
type services []config.Service

func (s *services) String() string     { return fmt.Sprint([]config.Service(*s)) }
func (s *services) IsCumulative() bool { return true }
func (s *services) Set(text string) error {
	name, port, err := address.ParseService(text)
	if err == nil && port == 0 {
		err = fmt.Errorf("%q has no port: write NAME:PORT", text)
	}
	*s = append(*s, config.Service{Name: name, Port: port, Settle: endpoints.DefaultSettle})
	return err
}

// watched returns every name that is to be watched: the services, and without a
// port the names that policies allow.
func watched(c *config.Config) []endpoints.Service {
	var watched []endpoints.Service
	for _, name := range c.Names() {
		s := endpoints.Service{Name: name}
		for _, known := range c.Services {
			if known.Name == name {
				s.Port, s.Settle = known.Port, known.Settle
			}
		}
		watched = append(watched, s)
	}
	return watched
}
