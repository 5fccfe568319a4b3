"""Units, links and hosts whose time is a published closed form: one command is one evaluation of it."""
