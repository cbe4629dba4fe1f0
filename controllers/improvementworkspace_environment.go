// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// maxReferences bounds the ConfigMaps and the Secrets of a target that are looked at.
const maxReferences = 64

// captureEnvironment is improvement_workspaces.environment_snapshot: what is
// changed and the target with what it reads, as it is before the change. What the
// account may not read is noted; it is not needed for anything.
func (s *step) captureEnvironment(ctx context.Context, plan snapshot.Plan) (json.RawMessage, error) {
	environment, err := snapshot.NewEnvironment(plan)
	if err != nil {
		return nil, err
	}
	target, err := s.get(ctx, s.w.Spec.Target.Ref)
	if err != nil {
		return nil, err
	}
	if err := environment.Add(snapshot.RoleTarget, target); err != nil {
		return nil, err
	}
	configMaps, secrets := snapshot.References(target)
	err = s.capture(ctx, environment, "ConfigMap", configMaps, func(live *unstructured.Unstructured) error {
		return environment.Add(snapshot.RoleReferenced, live)
	})
	if err == nil {
		err = s.capture(ctx, environment, "Secret", secrets, environment.AddSecret)
	}
	if err != nil {
		return nil, err
	}
	return mustJSON(environment), nil
}

func (s *step) capture(ctx context.Context, environment *snapshot.Environment, kind string, names []string, add func(*unstructured.Unstructured) error) error {
	for i, name := range names {
		if i == maxReferences {
			environment.Note("%d more of kind %s are left out", len(names)-i, kind)
			return nil
		}
		live, err := s.get(ctx, dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: kind, Name: name})
		switch {
		case isGone(err):
			environment.Note("%s/%s does not exist", kind, name)
		case isAnswer(err):
			environment.Note("%s/%s is not captured: ServiceAccount %s may not get it", kind, name, s.w.Spec.ServiceAccountName)
		case err != nil:
			return err
		default:
			if err := add(live); err != nil {
				return err
			}
		}
	}
	return nil
}

// knownEnvironment is what the plan alone tells of the state before, for a
// database that has lost the rest.
func knownEnvironment(plan snapshot.Plan) json.RawMessage {
	environment, err := snapshot.NewEnvironment(plan)
	if err != nil {
		return nil // a plan that was read was proven to hold the state before
	}
	environment.Note("what was captured besides the changed objects was lost with the database")
	return mustJSON(environment)
}
