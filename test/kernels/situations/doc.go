// Package situations hangs up connections in the situations of docs/kernels.md, with the real
// program, in the virtual machines of make kernels. Its tests report what happened; make
// kernels compares that with what is expected of the kernel.
package situations
