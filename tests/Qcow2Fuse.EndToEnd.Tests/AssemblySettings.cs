// SPDX-License-Identifier: MIT
using Xunit;

// Mounts, loop devices and fio share one machine: side by side they would only wait for each other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
