"""Adapters with the names, layouts and quirks of other libraries; each module says where it differs."""
