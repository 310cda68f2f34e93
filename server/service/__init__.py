"""The centre's service: studies that go on by themselves, alerts, the page."""
