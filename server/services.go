package server

import (
	"cmp"
	"os"
	"strings"

	"tcphup/config"
	"tcphup/services"
)

// watched returns the services to watch: those of the configuration, and the names in
// policies, without a port.
func watched(c *config.Config) []services.Service {
	var watched []services.Service
	for _, name := range c.Names() {
		s := services.Service{Name: name}
		for _, known := range c.Services {
			if known.Name == name {
				s = known
			}
		}
		watched = append(watched, s)
	}
	return watched
}

// stateDirectory returns option, or else the first entry of STATE_DIRECTORY, which may be
// empty.
func stateDirectory(option string) string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(option, first)
}
