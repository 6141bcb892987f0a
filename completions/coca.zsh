
#compdef coca

_coca_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _COCA_COMPLETE=complete_zsh coca)
}

compdef _coca_completion coca

