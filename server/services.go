package server

import (
	"tcphup/config"
	"tcphup/endpoints"
)

// watched returns every name to watch: the services, and without a port the names that
// policies allow.
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
