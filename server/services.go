package server

import (
	"cmp"
	"os"
	"strings"

	"tcphup/config"
	"tcphup/services"
)

// watched returns every name to watch: the services, and without a port the names that
// policies allow.
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

// stateDirectory returns the directory for state: the option's, or else the first entry
// of STATE_DIRECTORY (systemd.exec(5)), or else none.
func stateDirectory(option string) string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(option, first)
}
