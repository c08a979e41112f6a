# %% [markdown]
# # wavelets
