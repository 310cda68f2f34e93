"""The site's node: joins the federation, and checks what runs and what leaves."""
