"""`tiller demo`: a server of its own, a few scenes, and every bound verified.

run.py      asks, compares, shows
scenes.py   what is asked
server.py   the server it starts and stops
"""
