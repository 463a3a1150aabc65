"""The playground: a page that needs no build step and no network but this server."""
