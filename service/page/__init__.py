"""The pages: playground, reports and API. They need no build step and no network but this server."""
