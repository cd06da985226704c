"""The hand-off: an integer network as files that an engineer can build from and check without Darkspike."""
