"""Links: a small service that keeps links and redirects to them."""
