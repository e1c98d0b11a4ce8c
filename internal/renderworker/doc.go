// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package renderworker renders in processes that can be killed.
//
// Charts are foreign code, and a template cannot be stopped from within its process. A Pool therefore
// starts this program again, as workers: without environment, with a bound on memory, and with a filter
// on system calls that lets a worker compute and talk through the pipes it was given, but open no file
// and no socket. A worker renders one chart at a time and lives for many. One that uses up its time or
// memory is killed, and the render fails with a *render.InvalidError, while others go on.
//
// Every program that imports this package can be its own worker: the package takes over before main
// when the program was started as one.
package renderworker
