"""SuprSend's users, merge and events APIs."""
