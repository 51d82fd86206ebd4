// Package tools holds the tests of what is shipped beside the program, and the plot of
// the benchmarks. It is a module of its own: what they need to read manifests, to make
// packages and to draw is many times as large as what tcphup needs.
package tools
