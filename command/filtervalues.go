package command

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// The types of this file implement kingpin.Value, as those of flagvalues.go. They are
// repeatable flags with lists. An empty list is an error: it would select every connection.

var errEmptyList = errors.New("the value is empty: a command in $(...) may have printed nothing")

// eachValue calls add for each value of a list, separated by commas or white space, as pidof
// and pgrep print it.
func eachValue(list string, add func(string) error) error {
	values := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	if len(values) == 0 {
		return errEmptyList
	}
	for _, v := range values {
		if err := add(v); err != nil {
			return err
		}
	}
	return nil
}

// maxPID is PID_MAX_LIMIT of 64-bit kernels.
const maxPID = 1 << 22

type processIDs []int

func (p *processIDs) String() string     { return fmt.Sprint([]int(*p)) }
func (p *processIDs) IsCumulative() bool { return true }
func (p *processIDs) Set(list string) error {
	return eachValue(list, func(value string) error {
		pid, err := strconv.Atoi(value)
		if err != nil || pid < 1 || pid > maxPID {
			return fmt.Errorf("%s is not a process id from 1 to %d", text.Quote(value), maxPID)
		}
		*p = append(*p, pid)
		return nil
	})
}

type processNames []string

func (p *processNames) String() string     { return hangup.JoinCommands(*p) }
func (p *processNames) IsCumulative() bool { return true }
func (p *processNames) Set(list string) error {
	if list == "" {
		return errEmptyList
	}
	for _, name := range hangup.SplitCommands(list) { // a name may have a space
		if strings.HasPrefix(name, "/") {
			return fmt.Errorf("%s is a path: write the name in /proc/PID/comm, such as java", text.Quote(name))
		}
		if err := hangup.CheckCommand(name); len(name) > hangup.MaxCommand {
			return fmt.Errorf("%w: write its beginning, %s", err, text.Quote(name[:hangup.MaxCommand]))
		} else if err != nil {
			return err
		}
		*p = append(*p, text.Printable(name))
	}
	return nil
}

type userIDs []uint32

func (u *userIDs) String() string     { return fmt.Sprint([]uint32(*u)) }
func (u *userIDs) IsCumulative() bool { return true }
func (u *userIDs) Set(list string) error {
	return eachValue(list, func(value string) error {
		id := value
		if strings.Trim(value, "0123456789") != "" {
			found, err := user.Lookup(value)
			if err != nil {
				return fmt.Errorf("%s is neither the id nor the name of a user of this host", text.Quote(value))
			}
			id = found.Uid
		}
		uid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return fmt.Errorf("%s is not a user id from 0 to %d", text.Quote(value), uint32(1<<32-1))
		}
		*u = append(*u, uint32(uid))
		return nil
	})
}

type cgroups []string

func (c *cgroups) String() string     { return strings.Join(*c, ",") }
func (c *cgroups) IsCumulative() bool { return true }
func (c *cgroups) Set(value string) error {
	if value == "" {
		return errEmptyList
	}
	path, err := hangup.ParseCgroup(value)
	*c = append(*c, path)
	return err
}

// states is a set of TCP states. Names may have the case and the separators of ss, lsof and
// conntrack: CLOSE-WAIT, close_wait.
type states sockdiag.StateSet

// openStates are the states that can be selected. SynRecv includes NewSynRecv, which is the
// same state in another kind of socket.
func openStates() []sockdiag.State {
	return []sockdiag.State{
		sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
		sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
	}
}

func stateNames() []string { return texts(openStates(), sockdiag.State.String) }

func (s *states) IsCumulative() bool { return true }

func (s *states) String() string {
	var names []string
	for _, state := range openStates() {
		if sockdiag.StateSet(*s).Has(state) {
			names = append(names, state.String())
		}
	}
	return strings.Join(names, ",")
}

func (s *states) Set(list string) error {
	return eachValue(list, func(value string) error {
		i := slices.IndexFunc(stateNames(), func(name string) bool { return plainName(name) == plainName(value) })
		if i < 0 {
			return fmt.Errorf("%s is not one of %s", text.Quote(value), strings.Join(stateNames(), ", "))
		}
		state := openStates()[i]
		*s |= states(sockdiag.States(state))
		if state == sockdiag.SynRecv {
			*s |= states(sockdiag.States(sockdiag.NewSynRecv))
		}
		return nil
	})
}

// plainName returns the name of a state in lower case, without separators.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
}
