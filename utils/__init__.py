"""The rooms of Darkspike; which room may import which is drawn in docs/architecture.md and held by a test."""
