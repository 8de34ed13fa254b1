"""TrakLens: which training examples made the model do this, and what happens without them?

The parts lie in the folders of the same names at the top of the repository: `traklens.engine`, `traklens.app` and
`traklens.stores` are links to them, so that nothing of ours is installed under a name that somebody else may use.
"""
