#compdef coca

_coca() {
  eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _COCA_COMPLETE=complete_zsh coca)"
}

if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
  _coca "$@"
else
  compdef _coca coca
fi
