// Package tools tests the files shipped with the program: manifests, dashboard and package
// versions. It is a separate module, because its dependencies are many times larger than
// those of tcphup.
package tools
