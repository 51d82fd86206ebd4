// Package plan has the steps of a virtual machine, and the marks of its console.
package plan

// Path is the file in the virtual machine with the steps, as JSON.
const Path = "/plan.json"

// Marks of lines that init prints around the output of a step.
const (
	Kernel = "@kernel " // release and version of the kernel
	Begin  = "@begin "  // name of the step
	End    = "@end "    // name of the step, a colon, a space, and "ok" or the error
	Done   = "@done"    // every step has run
	Failed = "@failed " // error of init
	// Cell marks a cell of the table in the output of a step: the name of the row, a colon,
	// a space, and the text.
	Cell = "@cell "
)

// Step is a program that runs in the virtual machine.
type Step struct {
	Name        string
	Dir         string
	Args        []string
	Environment []string
	Seconds     int // limit of its run time
}

// VirtualMachine is an environment variable that is set in the virtual machine only.
const VirtualMachine = "TCPHUP_TEST_VIRTUAL_MACHINE"
