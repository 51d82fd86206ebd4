// Package tools holds the tests of what is shipped beside the program. It is a module
// of its own: what they need to read manifests and to make packages is many times as
// large as what tcphup needs.
package tools
