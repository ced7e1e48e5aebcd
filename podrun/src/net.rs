//! Networks of a pod.
