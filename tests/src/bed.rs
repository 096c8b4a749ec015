//! Network namespaces with a server, a friend, strangers, and the real daemon.
