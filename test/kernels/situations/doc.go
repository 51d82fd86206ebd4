// Package situations hangs up connections in the situations of docs/kernels.md, with the real
// program, in the virtual machines of make kernels. Its tests report the results;
// make kernels compares them with the expected ones of the kernel.
package situations
